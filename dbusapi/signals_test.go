package dbusapi_test

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"disksync/endpoint"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
)

// A line of gdbus for each of our signals.
var (
	stateLine    = regexp.MustCompile(`(?m)^/: ` + regexp.QuoteMeta(mainFace) + `\.disk_group_state_change \('([^']*)', '([^']*)', objectpath '([^']*)'\)$`)
	progressLine = regexp.MustCompile(`(?m)^/: ` + regexp.QuoteMeta(mainFace) + `\.disk_group_progress \('([^']*)', '([^']*)', ([^,]*), ([^,]*), ([^,]*), objectpath '([^']*)'\)$`)
)

// stateJSON is what busctl prints of a change of state.
var stateJSON = regexp.MustCompile(`"payload":\{"type":"sso","data":\["([^"]*)","([^"]*)","([^"]*)"\]\}`)

// states returns the states of a group that gdbus was told, in their order.
func states(gdbus *testkit.Buffer, group dbus.ObjectPath) []string {
	return statesIn(gdbus, stateLine, group)
}

func statesIn(monitor *testkit.Buffer, line *regexp.Regexp, group dbus.ObjectPath) (out []string) {
	for _, m := range line.FindAllStringSubmatch(monitor.String(), -1) {
		if m[3] == string(group) {
			out = append(out, m[2])
		}
	}
	return out
}

// progressOf is one progress signal.
type progressOf struct {
	stage               string
	percent, up, dnload float64
}

func progress(t *testing.T, monitor *testkit.Buffer, group dbus.ObjectPath) (out []progressOf) {
	t.Helper()
	for _, m := range progressLine.FindAllStringSubmatch(monitor.String(), -1) {
		if m[6] != string(group) {
			continue
		}
		p := progressOf{stage: m[2]}
		for i, v := range []*float64{&p.percent, &p.up, &p.dnload} {
			var err error
			if *v, err = strconv.ParseFloat(m[3+i], 64); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, p)
	}
	return out
}

// TestSignals watches a download over a slow line that is cut in the middle, as somebody else would.
func TestSignals(t *testing.T) {
	t.Parallel()
	r, _, line := slowRig(t, 2<<20, lab.Disk(1, 2, 3, 4, 5, 6, 7, 8, 9))
	gdbus := r.monitor("gdbus", "monitor", "--session", "-d", service)
	busctl := r.monitor("busctl", "--user", "--json=short", "--match=type='signal',sender='"+service+"'", "monitor")
	group := r.begin(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	testkit.Until(r.t, "some progress and a speed are told", func() bool {
		all := progress(t, gdbus, group)
		return len(all) > 1 && all[len(all)-1].percent > 0.2 && slices.ContainsFunc(all, func(p progressOf) bool { return p.dnload > 0 })
	})
	line.Break()
	testkit.Until(r.t, "the interruption is told", func() bool { return slices.Contains(states(gdbus, group), "network-stalled") })
	if got := property[string](r, group, groupFace, "state"); got != "network-stalled" {
		t.Errorf("the property says %s", got)
	}
	line.SetRate(0)
	line.Mend()
	r.await(group, "finished", "failed")
	testkit.Until(r.t, "the end is told", func() bool { return slices.Contains(states(gdbus, group), "finished") })
	if diff := cmp.Diff([]string{"stopped", "inprogress", "network-stalled", "inprogress", "finished"}, states(gdbus, group)); diff != "" {
		t.Errorf("states: -want +got\n%s", diff)
	}
	all := progress(t, gdbus, group)
	last := map[string]float64{}
	for i, p := range all {
		if p.percent < 0 || p.percent > 1 || p.percent < last[p.stage] || p.up != 0 || p.dnload < 0 {
			t.Errorf("progress %d is %+v after %v", i, p, last)
		}
		last[p.stage] = p.percent
	}
	if all[len(all)-1].percent != 1 {
		t.Errorf("progress: %+v", all)
	}
	id := property[string](r, group, groupFace, "id")
	testkit.Until(r.t, "busctl sees the end", func() bool {
		return strings.Contains(busctl.String(), `"payload":{"type":"sso","data":["`+id+`","finished","`+string(group)+`"]}`)
	})
	if got := busctl.String(); !strings.Contains(got, `"member":"disk_group_progress"`) || !strings.Contains(got, `"type":"ssdddo"`) {
		t.Errorf("busctl: %s", got)
	}
	// Nothing moves any more, so nothing is told; what is deleted is gone.
	r.do(group, groupFace+".delete")
	n := len(progress(t, gdbus, group))
	other := r.begin(endpoint.Request{Kind: endpoint.Update, VM: "win7"})
	r.await(other, "finished")
	testkit.Until(r.t, "the other is told", func() bool { return slices.Contains(states(gdbus, other), "finished") })
	if got := len(progress(t, gdbus, group)); got != n {
		t.Errorf("%d signals of a group that is gone", got-n)
	}
}

// TestSignalsOfTheEnd: groups that run when the service ends are told as stopped, and go on with the next one.
func TestSignalsOfTheEnd(t *testing.T) {
	t.Parallel()
	r, _, line := slowRig(t, 4<<20, lab.Disk(1, 2, 3, 4, 5, 6))
	// gdbus watches a service only from some time after it has appeared; busctl sees what all say.
	busctl := r.monitor("busctl", "--user", "--json=short", "--match=type='signal',sender='"+service+"'", "monitor")
	group := r.begin(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	told := func() []string { return statesIn(busctl, stateJSON, group) }
	from := line.Down()
	testkit.Until(r.t, "the transfer moves", func() bool { return line.Down() > from+256<<10 })
	r.restart()
	testkit.Until(r.t, "it goes on", func() bool { return len(told()) > 3 })
	line.SetRate(0)
	r.await(group, "finished")
	testkit.Until(r.t, "the end is told", func() bool { return slices.Contains(told(), "finished") })
	if diff := cmp.Diff([]string{"stopped", "inprogress", "stopped", "inprogress", "finished"}, told()); diff != "" {
		t.Errorf("states: -want +got\n%s", diff)
	}
}
