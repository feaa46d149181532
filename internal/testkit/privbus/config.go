package privbus

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/godbus/dbus/v5"
)

// sessionPolicy lets everybody do everything.
const sessionPolicy = `  <policy context="default">
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
  </policy>
`

// systemPolicy is the rule of system buses: without a policy of their own,
// services can be neither offered nor called; answers and signals pass; the bus
// itself can be talked to.
const systemPolicy = `  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
  </policy>
`

// config returns the configuration of a bus that listens on socket. The policy
// files come last, because of several rules that apply the last one counts.
func config(kind Kind, socket string, policyFiles []string) (string, error) {
	policy := sessionPolicy
	if kind == System {
		policy = systemPolicy
	}
	var out strings.Builder
	out.WriteString(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
`)
	fmt.Fprintf(&out, "  <type>%s</type>\n", kind)
	fmt.Fprintf(&out, "  <listen>unix:path=%s</listen>\n", escape(dbus.EscapeBusAddressValue(socket)))
	out.WriteString("  <auth>EXTERNAL</auth>\n")
	out.WriteString(policy)
	for _, file := range policyFiles {
		path, err := filepath.Abs(file) // the daemon would start at its own folder
		if err != nil {
			return "", fmt.Errorf("policy file: %w", err)
		}
		fmt.Fprintf(&out, "  <include>%s</include>\n", escape(path))
	}
	out.WriteString("</busconfig>\n")
	return out.String(), nil
}

// escape makes text safe inside of XML.
func escape(text string) string {
	var out bytes.Buffer
	_ = xml.EscapeText(&out, []byte(text)) // a bytes.Buffer takes everything
	return out.String()
}
