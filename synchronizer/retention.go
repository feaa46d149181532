package synchronizer

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"disksync/agefile"
	"disksync/api"
	"disksync/image"
)

// aged is what it takes to say whether a point stays.
type aged struct {
	point   image.Version
	created time.Time
	damaged bool
}

// youngPoint is the age below which a point stays whatever the policy says.
const youngPoint = time.Hour

// kept returns which points stay, of those of a line, oldest first: the newest of each of the last hours, days, weeks and months that have
// any, in UTC. The newest stays always, and so do young ones. One that is damaged does not count for any time, and does not go by itself:
// some of it may be of use.
func kept(ps []aged, p api.BackupPolicy, now time.Time) map[image.Version]bool {
	out := map[image.Version]bool{}
	all := p.Hourly == 0 && p.Daily == 0 && p.Weekly == 0 && p.Monthly == 0
	for i, a := range ps {
		if all || a.damaged || i == len(ps)-1 || now.Sub(a.created) < youngPoint {
			out[a.point] = true
		}
	}
	for _, times := range []struct {
		keep int
		of   func(t time.Time) string
	}{
		{p.Hourly, func(t time.Time) string { return t.Format("2006-01-02 15") }},
		{p.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{p.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprint(y, " ", w) }},
		{p.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
	} {
		seen := map[string]bool{}
		for i := len(ps) - 1; i >= 0 && len(seen) < times.keep; i-- {
			if when := times.of(ps[i].created.UTC()); !ps[i].damaged && !seen[when] {
				seen[when], out[ps[i].point] = true, true
			}
		}
	}
	return out
}

// Limits of a policy.
const (
	leastEvery = 5          // minutes
	mostEvery  = 366 * 1440 // minutes
	mostKept   = 10000
)

func checkBackupPolicy(p *api.BackupPolicy) error {
	if p == nil {
		return nil
	}
	if p.Every != 0 && (p.Every < leastEvery || p.Every > mostEvery) {
		return invalid("every is 0 or from %d to %d minutes", leastEvery, mostEvery)
	}
	for _, n := range []int{p.Hourly, p.Daily, p.Weekly, p.Monthly} {
		if n < 0 || n > mostKept {
			return invalid("hourly, daily, weekly and monthly are from 0 to %d", mostKept)
		}
	}
	if len(p.Recipients) > image.MaxSealed-1 { // the user's own comes to them
		return invalid("at most %d recipients can be named", image.MaxSealed-1)
	}
	if err := image.CheckSealed(p.Recipients); err != nil {
		return invalid("%v", err)
	}
	for _, r := range p.Recipients {
		if err := agefile.CheckRecipient(r); err != nil {
			return invalid("%v", err)
		}
	}
	return nil
}

// prune deletes the points of a line that its policy does not keep, and returns their numbers, and when points that stay because they are
// young will be that no more; empty: there are none.
func (s *Server) prune(ctx context.Context, line string) (removed []image.Version, again string, err error) {
	removed = []image.Version{}
	id, err := image.ParseUUID(line)
	if err != nil {
		return removed, "", err
	}
	l, err := lineByID(ctx, s.db, id)
	if err != nil {
		return removed, "", err
	}
	p, err := backupPolicyOf(ctx, s.db, l)
	if err != nil || p == nil {
		return removed, "", err
	}
	ps, err := agedPoints(ctx, s.db, line)
	if err != nil {
		return removed, "", err
	}
	now := s.now()
	keep := kept(ps, *p, now)
	for i, a := range ps {
		if keep[a.point] {
			if old := stamp(a.created.Add(youngPoint)); now.Sub(a.created) < youngPoint && i < len(ps)-1 && (again == "" || old < again) {
				again = old
			}
			continue
		}
		if err := s.dropPoint(ctx, line, a.point); err != nil {
			return removed, "", err
		}
		removed = append(removed, a.point)
		s.log.Info("backup removed by the policy", "line", line, "point", a.point)
	}
	return removed, again, nil
}

// agedPoints returns the points of a line, oldest first.
func agedPoints(ctx context.Context, q querier, line string) ([]aged, error) {
	damaged, err := damagedPoints(ctx, q, line)
	if err != nil {
		return nil, err
	}
	return collect(ctx, q, func(r *sql.Rows, a *aged) error {
		var created string
		err := r.Scan(&a.point, &created)
		if err == nil {
			a.created, err = parseStamp(created)
		}
		a.damaged = damaged[a.point]
		return err
	}, `SELECT p.point, COALESCE(i.created, p.created) FROM points p LEFT JOIN point_infos i ON i.line = p.line AND i.point = p.point
		WHERE p.line = ? ORDER BY p.point`, line)
}

// dropPoint deletes a point, and the layers that nothing else needs.
func (s *Server) dropPoint(ctx context.Context, line string, n image.Version) error {
	const layers = "SELECT layer FROM point_layers WHERE line = ? AND point = ?"
	return s.dropUnneeded(ctx, layers, []any{line, n}, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, "DELETE FROM points WHERE line = ? AND point = ?", line, n)
		return changed(res, err, notFound("there is no point %d", n))
	})
}

// deletePoint deletes a point. Layers that later points start from are squashed in the background.
func (s *Server) deletePoint(c *call) error {
	l, n, _, err := s.pointOf(c)
	if err == nil {
		err = s.dropPoint(c.Context(), l.id, n)
	}
	if err == nil {
		s.tidyLater(l.id)
	}
	return err
}

// deleteBackup deletes a line with all its points.
func (s *Server) deleteBackup(c *call) error {
	l, err := s.line(c)
	if err != nil {
		return err
	}
	const layers = "SELECT layer FROM point_layers WHERE line = ?1 UNION SELECT layer FROM user_layers WHERE line = ?1"
	return s.dropUnneeded(c.Context(), layers, []any{l.id}, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(c.Context(), "DELETE FROM user_layers WHERE line = ?", l.id); err != nil {
			return err
		}
		res, err := tx.ExecContext(c.Context(), "DELETE FROM lines WHERE id = ?", l.id)
		return changed(res, err, notFound("there is no line of backups %s", l.id))
	})
}

// postPrune applies the policy to a line at once.
func (s *Server) postPrune(c *call) error {
	l, err := s.line(c)
	if err != nil {
		return err
	}
	removed, _, err := s.prune(c.Context(), l.id)
	s.tidyLater(l.id)
	if err != nil {
		return err
	}
	return c.reply(removed)
}
