package dbusapi

import (
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"

	"disksync/endpoint"
	"disksync/image"
)

// The methods below are the original's.

func (s *server) listDiskGroups() ([]dbus.ObjectPath, *dbus.Error) {
	paths := []dbus.ObjectPath{}
	for _, op := range s.e.Operations() {
		paths = append(paths, groupPath(op.ID()))
	}
	return paths, nil
}

func (s *server) createDiskGroup() (dbus.ObjectPath, *dbus.Error) {
	if err := s.roomForOne(); err != nil {
		return "", err
	}
	return groupPath(s.e.NewGroup().ID()), nil
}

// dumpTasks lists all groups, disks and images with what they belong to and their states, one a line.
func (s *server) dumpTasks() (string, *dbus.Error) {
	var lines []string
	for _, op := range s.e.Operations() {
		st := op.Status()
		group := groupPath(st.ID)
		lines = append(lines, fmt.Sprintf("%s %s", group, st.State))
		for _, d := range st.Disks {
			disk := diskPath(st.ID, d.UUID)
			lines = append(lines, fmt.Sprintf("%s %s %s", disk, group, d.State()))
			for _, l := range d.Layers {
				lines = append(lines, fmt.Sprintf("%s %s %s", imagePath(st.ID, d.UUID, l.UUID), disk, l.State))
			}
		}
	}
	return strings.Join(lines, "\n"), nil
}

// group finds the group that a message is for.
func (s *server) group(msg dbus.Message) (target, *dbus.Error) {
	t, ok := s.find(pathOf(msg))
	if !ok || t.disk != nil {
		return t, noObject(pathOf(msg))
	}
	return t, nil
}

func (s *server) listDisks(msg dbus.Message) ([]dbus.ObjectPath, *dbus.Error) {
	t, err := s.group(msg)
	paths := []dbus.ObjectPath{}
	for _, d := range t.status.Disks {
		paths = append(paths, diskPath(t.status.ID, d.UUID))
	}
	return paths, err
}

func (s *server) createDisk(uuid, direction string, msg dbus.Message) (dbus.ObjectPath, *dbus.Error) {
	t, derr := s.group(msg)
	if derr != nil {
		return "", derr
	}
	id, err := image.ParseUUID(uuid)
	if err != nil {
		return "", dbusError(errFailed, "111:%s: %v", endpoint.ReasonInvalidRequest, err)
	}
	if len(t.status.Disks) >= maxDisks {
		return "", dbusError(errLimits, "a group has at most %d disks", maxDisks)
	}
	if err := checkTexts(direction); err != nil {
		return "", err
	}
	if err := t.op.AddDisk(id, direction); err != nil {
		return "", historic(err)
	}
	return diskPath(t.status.ID, id), nil
}

func (s *server) startGroup(msg dbus.Message) *dbus.Error {
	t, err := s.group(msg)
	if err != nil {
		return err
	}
	return historic(t.op.Resume())
}

func (s *server) stopGroup(msg dbus.Message) *dbus.Error {
	t, err := s.group(msg)
	if err == nil {
		t.op.Stop()
	}
	return err
}

func (s *server) pauseGroup(msg dbus.Message) *dbus.Error {
	t, err := s.group(msg)
	if err == nil {
		t.op.Pause()
	}
	return err
}

// resumeGroup acts on a paused group, and on one that runs: when its line is interrupted it is tried again without being asked, but not at
// once.
func (s *server) resumeGroup(msg dbus.Message) *dbus.Error {
	t, err := s.group(msg)
	if err != nil || t.status.State != endpoint.Paused && !t.status.Active {
		return err
	}
	return historic(t.op.Resume())
}

func (s *server) deleteGroup(msg dbus.Message) *dbus.Error {
	t, err := s.group(msg)
	if err != nil {
		return err
	}
	return historic(t.op.Delete(s.ctx))
}

func (s *server) listImages(msg dbus.Message) ([]dbus.ObjectPath, *dbus.Error) {
	t, ok := s.find(pathOf(msg))
	if !ok || t.disk == nil {
		return nil, noObject(pathOf(msg))
	}
	paths := []dbus.ObjectPath{}
	for _, l := range t.disk.Layers {
		paths = append(paths, imagePath(t.status.ID, t.disk.UUID, l.UUID))
	}
	return paths, nil
}

func (s *server) createImage(uuid, url, transferURL, serverCert, clientCert, clientKey string, encrypt bool, transferContext string,
	msg dbus.Message,
) (dbus.ObjectPath, *dbus.Error) {
	t, ok := s.find(pathOf(msg))
	if !ok || t.disk == nil {
		return "", noObject(pathOf(msg))
	}
	images := 0
	for _, d := range t.status.Disks {
		images += len(d.Layers)
	}
	if images >= maxImages {
		return "", dbusError(errLimits, "a group has at most %d images", maxImages)
	}
	if err := checkTexts(url, transferURL, serverCert, clientCert, clientKey, transferContext); err != nil {
		return "", err
	}
	if encrypt {
		// Whoever asks for encryption must not get a plain file and believe that it is not one.
		return "", dbusError(errFailed, "111:%s: images are not encrypted one by one; keep the state folder on an encrypted file system",
			endpoint.ReasonInvalidRequest)
	}
	id, err := image.ParseUUID(uuid)
	if err != nil {
		return "", dbusError(errFailed, "111:%s: %v", endpoint.ReasonInvalidRequest, err)
	}
	err = t.op.AddLayer(t.disk.UUID, endpoint.LayerInfo{
		UUID: id, URL: url, TransferURL: transferURL, ServerCert: serverCert, ClientCert: clientCert, ClientKey: clientKey,
		Context: transferContext,
	})
	if err != nil {
		return "", historic(err)
	}
	return imagePath(t.status.ID, t.disk.UUID, id), nil
}
