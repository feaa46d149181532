package synchronizer

import (
	"database/sql"
	"fmt"

	"disksync/api"
	"disksync/image"
)

func (s *Server) getUsers(c *call) error {
	users, err := collect(c.Context(), s.db, func(r *sql.Rows, u *api.User) error {
		var created string
		if err := r.Scan(&u.Name, &u.Admin, &created); err != nil {
			return err
		}
		var err error
		u.Created, err = parseStamp(created)
		return err
	}, "SELECT name, admin, created FROM users ORDER BY name")
	if err != nil {
		return err
	}
	for i := range users {
		if users[i].Groups, err = column(c.Context(), s.db, "SELECT grp FROM members WHERE user = ? ORDER BY grp", users[i].Name); err != nil {
			return err
		}
	}
	return c.reply(users)
}

func (s *Server) postUser(c *call) error {
	var in api.NewUser
	if err := c.decode(&in); err != nil {
		return err
	}
	if err := api.CheckAccount(in.Name); err != nil {
		return invalid("%v", err)
	}
	c.subject = in.Name
	hash, err := s.newPassword(c, in.Password)
	if err != nil {
		return err
	}
	res, err := s.db.ExecContext(c.Context(), "INSERT INTO users (name, password, admin, created) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
		in.Name, hash, in.Admin, stamp(s.now()))
	return changed(res, err, conflict("there is a user %s already", in.Name))
}

// newPassword checks and hashes a password that is to be set.
func (s *Server) newPassword(c *call, password string) (string, error) {
	if password == "" || len(password) > api.MaxPassword {
		return "", invalid("a password has 1 to %d bytes", api.MaxPassword)
	}
	hash, err := s.passwords.hash(c.Context(), password)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return hash, nil
}

func (s *Server) deleteUser(c *call) error {
	name, err := c.account("user")
	if err != nil {
		return err
	}
	defer s.keepHouse() // of uploads there may be files
	const layers = "SELECT layer FROM point_layers WHERE line IN (SELECT id FROM lines WHERE user = ?1) UNION SELECT layer FROM user_layers WHERE user = ?1"
	return s.dropUnneeded(c.Context(), layers, []any{name}, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(c.Context(), "DELETE FROM assignments WHERE kind = ? AND name = ?", api.ToUser, name)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(c.Context(), "DELETE FROM users WHERE name = ?", name)
		return changed(res, err, notFound("there is no user %s", name))
	})
}

func (s *Server) putPassword(c *call) error {
	name, err := c.account("user")
	if err != nil {
		return err
	}
	var in api.Password
	if err := c.decode(&in); err != nil {
		return err
	}
	hash, err := s.newPassword(c, in.Password)
	if err != nil {
		return err
	}
	return inTx(c.Context(), s.db, func(tx *sql.Tx) error {
		// Whoever knew the old password may hold a token.
		if _, err := tx.ExecContext(c.Context(), "DELETE FROM tokens WHERE user = ?", name); err != nil {
			return err
		}
		res, err := tx.ExecContext(c.Context(), "UPDATE users SET password = ? WHERE name = ?", hash, name)
		return changed(res, err, notFound("there is no user %s", name))
	})
}

// changed returns otherwise when a statement succeeded without changing a row.
func changed(res sql.Result, err, otherwise error) error {
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return otherwise
	}
	return nil
}

func (s *Server) getGroups(c *call) error {
	names, err := column(c.Context(), s.db, "SELECT name FROM groups ORDER BY name")
	if err != nil {
		return err
	}
	groups := []api.Group{}
	for _, name := range names {
		members, err := column(c.Context(), s.db, "SELECT user FROM members WHERE grp = ? ORDER BY user", name)
		if err != nil {
			return err
		}
		groups = append(groups, api.Group{Name: name, Members: members})
	}
	return c.reply(groups)
}

func (s *Server) putGroup(c *call) error {
	name, err := c.account("group")
	if err != nil {
		return err
	}
	_, err = s.db.ExecContext(c.Context(), "INSERT INTO groups (name) VALUES (?) ON CONFLICT DO NOTHING", name)
	return err
}

func (s *Server) deleteGroup(c *call) error {
	name, err := c.account("group")
	if err != nil {
		return err
	}
	return inTx(c.Context(), s.db, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(c.Context(), "DELETE FROM assignments WHERE kind = ? AND name = ?", api.ToGroup, name)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(c.Context(), "DELETE FROM groups WHERE name = ?", name)
		return changed(res, err, notFound("there is no group %s", name))
	})
}

func (s *Server) putMember(c *call) error { return s.changeMember(c, true) }

func (s *Server) deleteMember(c *call) error { return s.changeMember(c, false) }

func (s *Server) changeMember(c *call, add bool) error {
	group, err := c.account("group")
	if err != nil {
		return err
	}
	user, err := c.account("user")
	if err != nil {
		return err
	}
	c.subject = user + " of " + group
	return inTx(c.Context(), s.db, func(tx *sql.Tx) error {
		if err := exists(c, tx, "groups", group); err != nil {
			return err
		}
		if err := exists(c, tx, "users", user); err != nil {
			return err
		}
		query := "INSERT INTO members (grp, user) VALUES (?, ?) ON CONFLICT DO NOTHING"
		if !add {
			query = "DELETE FROM members WHERE grp = ? AND user = ?"
		}
		_, err := tx.ExecContext(c.Context(), query, group, user)
		return err
	})
}

// exists returns an error that says so when the table has no row of that name.
func exists(c *call, q querier, table, name string) error {
	names, err := column(c.Context(), q, "SELECT name FROM "+table+" WHERE name = ?", name)
	if err == nil && len(names) == 0 {
		err = notFound("there is no %s %s", table[:len(table)-1], name)
	}
	return err
}

func (s *Server) getDevices(c *call) error {
	devices, err := collect(c.Context(), s.db, func(r *sql.Rows, d *api.DeviceInfo) error {
		var id, created, seen string
		if err := r.Scan(&id, &d.Name, &d.User, &created, &seen); err != nil {
			return err
		}
		var err error
		if d.ID, err = image.ParseUUID(id); err != nil {
			return err
		}
		if d.Created, err = parseStamp(created); err != nil {
			return err
		}
		d.LastSeen, err = parseStamp(seen)
		return err
	}, "SELECT id, name, user, created, last_seen FROM devices ORDER BY user, name")
	if err != nil {
		return err
	}
	return c.reply(devices)
}

func (s *Server) deleteDevice(c *call) error {
	id, err := image.ParseUUID(c.PathValue("device"))
	if err != nil {
		return invalid("%v", err)
	}
	c.subject = id.String()
	res, err := s.db.ExecContext(c.Context(), "DELETE FROM devices WHERE id = ?", id.String())
	return changed(res, err, notFound("there is no device %s", id))
}
