package synchronizer

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"slices"

	"disksync/api"
	"disksync/image"
)

// postVersion makes stored layers into a version: the commit point of publishing.
func (s *Server) postVersion(c *call) error {
	name, err := c.imageName()
	if err != nil {
		return err
	}
	var in api.Seal
	if err := c.decode(&in); err != nil {
		return err
	}
	c.subject = fmt.Sprintf("%s version %d", name, in.Version)
	if in.Version == 0 || len(in.Disks) == 0 && (in.Machine == nil || in.Version == 1) || len(in.Note) > api.MaxNote {
		return invalid("a version has a number, at least one disk, and a note of at most %d bytes", api.MaxNote)
	}
	var info api.VersionInfo
	err = inTx(c.Context(), s.db, func(tx *sql.Tx) error {
		m, err := s.nextManifest(c.Context(), tx, name, in)
		if err != nil {
			return err
		}
		info, err = s.enterVersion(c.Context(), tx, m)
		return err
	})
	if err != nil {
		return err
	}
	s.consider(name)
	return c.reply(info)
}

// nextManifest composes the manifest of a new version from the previous one and the layers that change it.
func (s *Server) nextManifest(ctx context.Context, tx *sql.Tx, name string, in api.Seal) (*image.Manifest, error) {
	m, err := s.previousManifest(ctx, tx, name, in)
	if err != nil {
		return nil, err
	}
	if in.Version != m.Version+1 {
		return nil, conflict("the newest version of %s is %d, so version %d cannot follow; look again", name, m.Version, in.Version)
	}
	if in.Mode != "" && in.Mode != m.Mode {
		return nil, conflict("%s is a %s image; the mode is fixed by its first version", name, m.Mode)
	}
	m.Version, m.Note, m.Created = in.Version, in.Note, s.now().UTC()
	if in.Machine != nil {
		if err := in.Machine.Check(); err != nil {
			return nil, invalid("the machine: %v", err)
		}
		m.Machine = in.Machine
	}
	seen := map[image.Role]bool{}
	for _, d := range in.Disks {
		if seen[d.Role] {
			return nil, invalid("the %s disk is there twice", d.Role)
		}
		seen[d.Role] = true
		if err := s.changeDisk(ctx, tx, m, d); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// previousManifest returns the newest manifest of the image, or, for an image that is not there, an empty one of version 0.
func (s *Server) previousManifest(ctx context.Context, tx *sql.Tx, name string, in api.Seal) (*image.Manifest, error) {
	id, err := imageID(ctx, tx, name)
	if isNotFound(err) {
		var random [16]byte
		rand.Read(random[:])
		m := &image.Manifest{Format: 1, ImageID: image.RandomUUID(random), Image: name, Mode: in.Mode}
		if m.Mode == "" {
			m.Mode = image.Static
		}
		_, err := tx.ExecContext(ctx, "INSERT INTO images (id, name, mode, created) VALUES (?, ?, ?, ?)",
			m.ImageID.String(), name, m.Mode, stamp(s.now()))
		return m, err
	}
	if err != nil {
		return nil, err
	}
	var env []byte
	err = tx.QueryRowContext(ctx, "SELECT manifest FROM versions WHERE image = ? ORDER BY version DESC LIMIT 1", id).Scan(&env)
	if err != nil {
		return nil, fmt.Errorf("newest version of %s: %w", name, err)
	}
	v, err := image.VerifyManifest(env, s.SigningKey())
	if err != nil {
		return nil, fmt.Errorf("manifest of %s in the catalog: %w", name, err)
	}
	m := *v.Manifest()
	m.Disks = append([]image.Disk(nil), m.Disks...)
	return &m, nil
}

// changeDisk puts the state that a stored layer leads to into the manifest.
func (s *Server) changeDisk(ctx context.Context, tx *sql.Tx, m *image.Manifest, in api.SealDisk) error {
	if in.Layer == (image.LayerID{}) {
		return bootDisk(m, in)
	}
	ref, size, err := layerRef(ctx, tx, in.Layer)
	if err != nil {
		return err
	}
	if len(ref.Sealed) > 0 {
		return conflict("layer %s is encrypted, and for backups only", in.Layer.Short())
	}
	ref.VHDUUIDs = in.VHDUUIDs
	d := image.Disk{Role: in.Role, Size: size, State: ref.To}
	old, there := m.Disk(in.Role)
	switch {
	case ref.From.IsZero():
		d.Layers = []image.LayerRef{ref}
	case there && ref.From == old.State:
		d.Layers = append(append([]image.LayerRef(nil), old.Layers...), ref)
	default:
		return conflict("layer %s does not start from the newest %s disk of %s; look again", in.Layer.Short(), in.Role, m.Image)
	}
	d.Boot = in.Boot
	if err := image.CheckBoot(in.Boot, size); err != nil {
		return invalid("%s disk: %v", in.Role, err)
	}
	if there {
		if d.Boot == nil {
			d.Boot = slices.DeleteFunc(slices.Clone(old.Boot), func(b int) bool { return b >= image.BlockCount(size) })
		}
		*old = d
	} else {
		m.Disks = append(m.Disks, d)
	}
	return nil
}

// bootDisk gives a disk that stays as it was another boot set.
func bootDisk(m *image.Manifest, in api.SealDisk) error {
	old, there := m.Disk(in.Role)
	if !there || len(in.Boot) == 0 {
		return invalid("the %s disk has no layer", in.Role)
	}
	if err := image.CheckBoot(in.Boot, old.Size); err != nil {
		return invalid("%s disk: %v", in.Role, err)
	}
	old.Boot = in.Boot
	return nil
}

func (s *Server) enterVersion(ctx context.Context, tx *sql.Tx, m *image.Manifest) (api.VersionInfo, error) {
	env, err := image.SignManifest(m, s.signing)
	if err != nil {
		return api.VersionInfo{}, invalid("%v", err)
	}
	id := m.ImageID.String()
	if _, err := tx.ExecContext(ctx, "INSERT INTO versions (image, version, manifest) VALUES (?, ?, ?)", id, m.Version, env); err != nil {
		return api.VersionInfo{}, err
	}
	for _, d := range m.Disks {
		for _, l := range d.Layers {
			_, err := tx.ExecContext(ctx, "INSERT INTO version_layers (image, version, layer) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
				id, m.Version, l.ID.String())
			if err != nil {
				return api.VersionInfo{}, err
			}
		}
	}
	return enterVersionInfo(ctx, tx, m)
}
