package xec_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/internal/testkit"
)

// TestOtherTools checks that the tools of other projects see what xec writes, and
// that xec sees what they write.
func TestOtherTools(t *testing.T) {
	tests := []struct {
		tool     string
		get, set []string // read the property pair, write the property limits
		shown    string   // how the tool shows the structure ["it", 7]
	}{
		{
			tool: "gdbus",
			get: []string{"call", "--session", "--dest", testService, "--object-path", "/",
				"--method", propsIface + ".Get", configIface, "pair"},
			set: []string{"call", "--session", "--dest", testService, "--object-path", "/",
				"--method", propsIface + ".Set", configIface, "limits", "<{'a': 1}>"},
			shown: "(<('it', 7)>,)\n",
		},
		{
			tool: "busctl",
			get:  []string{"--user", "get-property", testService, "/", configIface, "pair"},
			set: []string{"--user", "set-property", testService, "/", configIface, "limits",
				"a{si}", "1", "a", "1"},
			shown: "(si) \"it\" 7\n",
		},
	}
	for _, test := range tests {
		t.Run(test.tool, func(t *testing.T) {
			path := testkit.Tool(t, test.tool)
			bus := testkit.StartBus(t, testkit.SessionBus)
			startService(t, bus)
			tool := func(args ...string) string {
				cmd := exec.Command(path, args...)
				cmd.Env = append(os.Environ(), bus.Env()...)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %v: %s", test.tool, err, out)
				}
				return string(out)
			}
			own := []string{"--session", "-s", testService}

			check(t, printed(""), run(bus.Env(), append(own, "set", "pair", `["it", 7]`)...))
			if diff := cmp.Diff(test.shown, tool(test.get...)); diff != "" {
				t.Errorf("%s reads: -want +got\n%s", test.tool, diff)
			}
			tool(test.set...)
			check(t, printed("{\n  \"a\"                            = 1\n}\n"),
				run(bus.Env(), append(own, "get", "limits")...))
		})
	}
}
