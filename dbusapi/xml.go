package dbusapi

import (
	"fmt"
	"strings"

	"disksync/config"
)

const xmlHead = `<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
`

const xmlStandard = `  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect"><arg name="xml" type="s" direction="out"/></method>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get"><arg name="interface" type="s" direction="in"/><arg name="name" type="s" direction="in"/><arg name="value" type="v" direction="out"/></method>
    <method name="Set"><arg name="interface" type="s" direction="in"/><arg name="name" type="s" direction="in"/><arg name="value" type="v" direction="in"/></method>
    <method name="GetAll"><arg name="interface" type="s" direction="in"/><arg name="values" type="a{sv}" direction="out"/></method>
    <signal name="PropertiesChanged"><arg name="interface" type="s"/><arg name="changed" type="a{sv}"/><arg name="invalidated" type="as"/></signal>
  </interface>
`

// silent tells clients not to keep the values of read-only properties: nothing says when one changes. The signals of the main
// interface tell the states of groups.
func silent(xml string) string {
	const annotation = `<annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>`
	return strings.ReplaceAll(xml, `access="read"/>`, `access="read">`+annotation+`</property>`)
}

const xmlMain = `  <interface name="` + ifaceMain + `">
    <method name="list_disk_groups"><arg name="disk_groups" type="ao" direction="out"/></method>
    <method name="create_disk_group"><arg name="disk_group" type="o" direction="out"/></method>
    <signal name="disk_group_state_change"><arg name="group_id" type="s"/><arg name="state" type="s"/><arg name="obj_path" type="o"/></signal>
    <signal name="disk_group_progress"><arg name="group_id" type="s"/><arg name="stage" type="s"/><arg name="percent_complete" type="d"/><arg name="upload_speed" type="d"/><arg name="dnload_speed" type="d"/><arg name="obj_path" type="o"/></signal>
    <signal name="disk_group_interrupted"><arg name="group_id" type="s"/><arg name="disk_uuid" type="s"/><arg name="obj_path" type="o"/><arg name="image_uuid" type="s"/><arg name="reason" type="s"/></signal>
  </interface>
  <interface name="` + ifaceDebug + `">
    <method name="dump_tasks"><arg name="tasks" type="s" direction="out"/></method>
  </interface>
`

const xmlOwn = `  <interface name="` + ifaceOwn + `">
    <method name="probe"><arg name="url" type="s" direction="in"/><arg name="fingerprint" type="s" direction="out"/></method>
    <method name="register"><arg name="url" type="s" direction="in"/><arg name="fingerprint" type="s" direction="in"/><arg name="replace" type="b" direction="in"/></method>
    <method name="registration"><arg name="json" type="s" direction="out"/></method>
    <method name="login"><arg name="user" type="s" direction="in"/><arg name="password" type="s" direction="in"/></method>
    <method name="logout"/>
    <method name="offers"><arg name="json" type="s" direction="out"/></method>
    <method name="media"><arg name="folders" type="as" direction="in"/><arg name="json" type="s" direction="out"/></method>
    <method name="media_for"><arg name="folders" type="as" direction="in"/><arg name="image" type="s" direction="in"/><arg name="json" type="s" direction="out"/></method>
    <method name="plan"><arg name="request" type="s" direction="in"/><arg name="json" type="s" direction="out"/></method>
    <method name="start"><arg name="request" type="s" direction="in"/><arg name="disk_group" type="o" direction="out"/></method>
    <method name="operations"><arg name="json" type="s" direction="out"/></method>
    <method name="operation"><arg name="disk_group" type="o" direction="in"/><arg name="json" type="s" direction="out"/></method>
    <method name="vms"><arg name="json" type="s" direction="out"/></method>
    <method name="run"><arg name="vm" type="s" direction="in"/><arg name="options" type="s" direction="in"/><arg name="json" type="s" direction="out"/></method>
    <method name="stop"><arg name="vm" type="s" direction="in"/><arg name="force" type="b" direction="in"/></method>
    <method name="boot_trace"><arg name="vm" type="s" direction="in"/><arg name="json" type="s" direction="out"/></method>
    <method name="console"><arg name="vm" type="s" direction="in"/><arg name="socket" type="s" direction="out"/></method>
    <method name="backups"><arg name="json" type="s" direction="out"/></method>
    <method name="backups_of"><arg name="vm" type="s" direction="in"/><arg name="json" type="s" direction="out"/></method>
    <method name="rollback"><arg name="vm" type="s" direction="in"/><arg name="json" type="s" direction="out"/></method>
    <method name="remove"><arg name="vm" type="s" direction="in"/></method>
    <method name="export"><arg name="vm" type="s" direction="in"/><arg name="role" type="s" direction="in"/><arg name="socket" type="s" direction="out"/></method>
    <method name="open_disk"><arg name="vm" type="s" direction="in"/><arg name="point" type="u" direction="in"/><arg name="role" type="s" direction="in"/><arg name="socket" type="s" direction="out"/></method>
    <method name="backup_keys"><arg name="json" type="s" direction="out"/></method>
    <method name="new_backup_key"><arg name="replace" type="b" direction="in"/><arg name="recipient" type="s" direction="out"/></method>
    <method name="export_backup_keys"><arg name="keys" type="s" direction="out"/></method>
    <method name="import_backup_keys"><arg name="keys" type="s" direction="in"/><arg name="json" type="s" direction="out"/></method>
    <method name="remove_backup_key"><arg name="recipient" type="s" direction="in"/><arg name="force" type="b" direction="in"/><arg name="json" type="s" direction="out"/></method>
    <method name="backup_encryption"><arg name="on" type="b" direction="out"/></method>
    <method name="set_backup_encryption"><arg name="on" type="b" direction="in"/></method>
    <method name="lend_backup_keys"><arg name="keys" type="s" direction="in"/><arg name="json" type="s" direction="out"/></method>
    <method name="return_backup_keys"><arg name="recipients" type="as" direction="in"/></method>
    <property name="release" type="s" access="read"/>
    <property name="state-folder" type="s" access="read"/>
    <property name="user" type="s" access="read"/>
  </interface>
`

const xmlGroup = `  <interface name="` + ifaceGroup + `">
    <method name="list_disks"><arg name="disks" type="ao" direction="out"/></method>
    <method name="create_disk"><arg name="disk_uuid" type="s" direction="in"/><arg name="direction" type="s" direction="in"/><arg name="disk" type="o" direction="out"/></method>
    <method name="start"/>
    <method name="stop"/>
    <method name="pause"/>
    <method name="resume"/>
    <method name="delete"/>
    <property name="id" type="s" access="read"/>
    <property name="state" type="s" access="read"/>
    <property name="stage" type="s" access="read"/>
    <property name="percent-complete" type="d" access="read"/>
    <property name="upload-speed" type="d" access="read"/>
    <property name="dnload-speed" type="d" access="read"/>
    <property name="admctl-qpos" type="i" access="read"/>
    <property name="admctl-retry-time" type="d" access="read"/>
  </interface>
`

const xmlDisk = `  <interface name="` + ifaceDisk + `">
    <method name="list_images"><arg name="images" type="ao" direction="out"/></method>
    <method name="create_image"><arg name="image_uuid" type="s" direction="in"/><arg name="image_url" type="s" direction="in"/><arg name="transfer_url" type="s" direction="in"/><arg name="server_cert_path" type="s" direction="in"/><arg name="client_cert_path" type="s" direction="in"/><arg name="client_key_path" type="s" direction="in"/><arg name="encrypt_local_image" type="b" direction="in"/><arg name="transfer_context_id" type="s" direction="in"/><arg name="image" type="o" direction="out"/></method>
    <property name="id" type="s" access="read"/>
    <property name="group-id" type="s" access="read"/>
    <property name="disk-uuid" type="s" access="read"/>
    <property name="direction" type="s" access="read"/>
    <property name="state" type="s" access="read"/>
    <property name="failure-reason" type="s" access="read"/>
  </interface>
`

const xmlImage = `  <interface name="` + ifaceImage + `">
    <property name="id" type="s" access="read"/>
    <property name="disk-id" type="s" access="read"/>
    <property name="image-uuid" type="s" access="read"/>
    <property name="image-url" type="s" access="read"/>
    <property name="transfer-url" type="s" access="read"/>
    <property name="server-cert-path" type="s" access="read"/>
    <property name="client-cert-path" type="s" access="read"/>
    <property name="client-key-path" type="s" access="read"/>
    <property name="encrypt-local-image" type="b" access="read"/>
    <property name="transfer-context-id" type="s" access="read"/>
  </interface>
`

// xmlConfig describes the settings.
func xmlConfig() string {
	var b strings.Builder
	fmt.Fprintf(&b, "  <interface name=\"%s\">\n", ifaceConfig)
	for _, s := range config.All() {
		if s.Exposed {
			fmt.Fprintf(&b, "    <property name=\"%s\" type=\"%s\" access=\"readwrite\"/>\n", s.Name, s.Type)
		}
	}
	b.WriteString("  </interface>\n")
	return b.String()
}

// describe returns the introspection of an object with the given interfaces and children.
func describe(interfaces string, children ...string) string {
	var b strings.Builder
	b.WriteString(xmlHead + silent(interfaces) + xmlStandard)
	for _, c := range children {
		fmt.Fprintf(&b, "  <node name=\"%s\"/>\n", c)
	}
	b.WriteString("</node>\n")
	return b.String()
}
