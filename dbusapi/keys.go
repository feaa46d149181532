package dbusapi

import (
	"context"

	"github.com/godbus/dbus/v5"
)

// The keys of backups cross the bus in arguments and answers, as passwords do, between the service and a caller who may change things;
// never in properties, signals or operations.

func (s *server) backupKeys() (string, *dbus.Error) { return asJSON(s.e.BackupKeys(), nil) }

func (s *server) newBackupKey(replace bool) (string, *dbus.Error) {
	r, err := s.e.NewBackupKey(replace)
	return r, own(err)
}

func (s *server) exportBackupKeys() (string, *dbus.Error) {
	text, err := s.e.ExportBackupKeys()
	return text, own(err)
}

func (s *server) importBackupKeys(keys string) (string, *dbus.Error) {
	return asJSON(s.e.ImportBackupKeys(keys))
}

func (s *server) removeBackupKey(recipient string, force bool) (string, *dbus.Error) {
	if err := checkTexts(recipient); err != nil {
		return "", err
	}
	return asJSON(s.e.RemoveBackupKey(s.ctx, recipient, force))
}

func (s *server) backupEncryption() (bool, *dbus.Error) { return s.e.EncryptsBackups(), nil }

func (s *server) setBackupEncryption(on bool) *dbus.Error { return own(s.e.EncryptBackups(on)) }

func (s *server) lendBackupKeys(keys string, sender dbus.Sender) (string, *dbus.Error) {
	return asJSON(s.lenders.lend(string(sender), keys))
}

func (s *server) returnBackupKeys(recipients []string, sender dbus.Sender) *dbus.Error {
	s.e.ReturnBackupKeys(string(sender), recipients)
	return nil
}

// BackupKeys is endpoint.Engine.BackupKeys.
func (c *Client) BackupKeys(ctx context.Context) ([]string, error) {
	var v []string
	return v, c.get(ctx, &v, "backup_keys")
}

// NewBackupKey is endpoint.Engine.NewBackupKey.
func (c *Client) NewBackupKey(ctx context.Context, replace bool) (string, error) {
	return c.text(ctx, "new_backup_key", replace)
}

// ExportBackupKeys is endpoint.Engine.ExportBackupKeys.
func (c *Client) ExportBackupKeys(ctx context.Context) (string, error) {
	return c.text(ctx, "export_backup_keys")
}

// ImportBackupKeys is endpoint.Engine.ImportBackupKeys.
func (c *Client) ImportBackupKeys(ctx context.Context, keys string) ([]string, error) {
	var v []string
	return v, c.get(ctx, &v, "import_backup_keys", keys)
}

// RemoveBackupKey is endpoint.Engine.RemoveBackupKey.
func (c *Client) RemoveBackupKey(ctx context.Context, recipient string, force bool) ([]string, error) {
	var v []string
	return v, c.get(ctx, &v, "remove_backup_key", recipient, force)
}

// EncryptsBackups is endpoint.Engine.EncryptsBackups.
func (c *Client) EncryptsBackups(ctx context.Context) (bool, error) {
	var on bool
	body, err := c.call(ctx, "backup_encryption")
	if err == nil {
		err = dbus.Store(body, &on)
	}
	return on, err
}

// EncryptBackups is endpoint.Engine.EncryptBackups.
func (c *Client) EncryptBackups(ctx context.Context, on bool) error {
	_, err := c.call(ctx, "set_backup_encryption", on)
	return err
}

// LendBackupKeys is endpoint.Engine.LendBackupKeys; the lender is this Client, and its keys are lent until it is closed.
func (c *Client) LendBackupKeys(ctx context.Context, keys string) ([]string, error) {
	var v []string
	return v, c.get(ctx, &v, "lend_backup_keys", keys)
}

// ReturnBackupKeys is endpoint.Engine.ReturnBackupKeys.
func (c *Client) ReturnBackupKeys(ctx context.Context, recipients []string) error {
	_, err := c.call(ctx, "return_backup_keys", append([]string{}, recipients...))
	return err
}

// text calls a method that answers with a text.
func (c *Client) text(ctx context.Context, method string, args ...any) (string, error) {
	var text string
	body, err := c.call(ctx, method, args...)
	if err == nil {
		err = dbus.Store(body, &text)
	}
	return text, err
}
