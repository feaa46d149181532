package dbusapi

import (
	"reflect"
	"strings"

	"github.com/godbus/dbus/v5"
)

// right is what a caller needs to call a method.
type right int

const (
	look   right = iota // everybody has it
	change              // see access
)

// method is what a call does, and the right that it takes.
type method struct {
	right right
	do    any // a function as the library wants it: it may take the Sender and the Message, and its last result is an error
}

// table has the methods of interfaces, by their names.
type table map[string]map[string]method

// exportAll makes the objects known to the connection: the root, and whatever operations there are, below three prefixes. Every
// method declares here who may call it.
func (s *server) exportAll() error {
	root := table{
		ifaceMain:  {"list_disk_groups": {look, s.listDiskGroups}, "create_disk_group": {change, s.createDiskGroup}},
		ifaceDebug: {"dump_tasks": {look, s.dumpTasks}},
		ifaceOwn: {
			"registration": {look, s.registration}, "operations": {look, s.operations}, "operation": {look, s.operation},
			"vms":   {look, s.vms},
			"probe": {change, s.probe}, "register": {change, s.register}, "login": {change, s.login}, "logout": {change, s.logout},
			"offers": {change, s.offers}, "media": {change, s.media}, "media_for": {change, s.mediaFor}, "plan": {change, s.plan}, "start": {change, s.start},
			"run": {change, s.run}, "stop": {change, s.stop}, "console": {change, s.console}, "boot_trace": {change, s.bootTrace},
			"backups": {change, s.backups}, "backups_of": {change, s.backupsOf}, "rollback": {change, s.rollback}, "remove": {change, s.remove}, "export": {change, s.export},
			"open_disk":   {change, s.openDisk},
			"backup_keys": {change, s.backupKeys}, "new_backup_key": {change, s.newBackupKey}, "export_backup_keys": {change, s.exportBackupKeys},
			"import_backup_keys": {change, s.importBackupKeys}, "lend_backup_keys": {change, s.lendBackupKeys},
			"return_backup_keys": {change, s.returnBackupKeys}, "remove_backup_key": {change, s.removeBackupKey},
			"backup_encryption": {change, s.backupEncryption}, "set_backup_encryption": {change, s.setBackupEncryption},
		},
	}
	group := table{ifaceGroup: {
		"list_disks": {look, s.listDisks}, "create_disk": {change, s.createDisk}, "start": {change, s.startGroup},
		"stop": {change, s.stopGroup}, "pause": {change, s.pauseGroup}, "resume": {change, s.resumeGroup},
		"delete": {change, s.deleteGroup},
	}}
	disk := table{ifaceDisk: {"list_images": {look, s.listImages}, "create_image": {change, s.createImage}}}
	for path, t := range map[string]table{rootPath: root, groupPrefix: group, diskPrefix: disk, imagePrefix: {}} {
		t[ifaceProperties] = map[string]method{"Get": {look, s.get}, "GetAll": {look, s.getAll}, "Set": {change, s.set}}
		t[ifaceIntrospect] = map[string]method{"Introspect": {look, s.introspect}}
		for iface, methods := range t {
			if err := s.exportTable(path, iface, methods); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *server) exportTable(path, iface string, methods map[string]method) error {
	guarded := map[string]any{}
	for name, m := range methods {
		guarded[name] = s.guard(m)
	}
	if path == rootPath {
		return s.conn.ExportMethodTable(guarded, rootPath, iface)
	}
	return s.conn.ExportSubtreeMethodTable(guarded, dbus.ObjectPath(strings.TrimSuffix(path, "/")), iface)
}

var (
	senderType  = reflect.TypeFor[dbus.Sender]()
	messageType = reflect.TypeFor[dbus.Message]()
)

// guard puts the checks of a call before what it does: that the caller has the right, and that the arguments have the types of
// the method. (The library would make a text of a number, and the like.)
func (s *server) guard(m method) any {
	do := reflect.ValueOf(m.do)
	in := []reflect.Type{senderType, messageType}
	want := ""
	for i := range do.Type().NumIn() {
		t := do.Type().In(i)
		in = append(in, t)
		if t != senderType && t != messageType {
			want += dbus.SignatureOfType(t).String()
		}
	}
	var out []reflect.Type
	for i := range do.Type().NumOut() {
		out = append(out, do.Type().Out(i))
	}
	return reflect.MakeFunc(reflect.FuncOf(in, out, false), func(args []reflect.Value) []reflect.Value {
		sender, msg := args[0].Interface().(dbus.Sender), args[1].Interface().(dbus.Message)
		if err := s.admit(m.right, want, sender, msg); err != nil {
			results := make([]reflect.Value, len(out))
			for i, t := range out {
				results[i] = reflect.Zero(t)
			}
			results[len(out)-1] = reflect.ValueOf(err)
			return results
		}
		return do.Call(args[2:])
	}).Interface()
}

func (s *server) admit(r right, want string, sender dbus.Sender, msg dbus.Message) *dbus.Error {
	if r == change {
		if err := s.access.check(sender); err != nil {
			return err
		}
	}
	got, _ := msg.Headers[dbus.FieldSignature].Value().(dbus.Signature)
	if got.String() != want {
		return dbusError(errInvalidArgs, "the types of the arguments are %q, want %q", got, want)
	}
	return nil
}
