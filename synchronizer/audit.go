package synchronizer

import (
	"context"
	"database/sql"
	"time"

	"disksync/api"
)

// stamp is the form of times in the catalog: sortable text in UTC.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func parseStamp(s string) (time.Time, error) { return time.Parse("2006-01-02T15:04:05.000Z", s) }

// writeAudit adds a line to the audit log. The log is only ever added to.
func (s *Server) writeAudit(c *call, what, outcome string) {
	// The request may have been given up by its caller; what happened is recorded all the same.
	ctx := context.WithoutCancel(c.Context())
	_, err := s.db.ExecContext(ctx, "INSERT INTO audit (at, who, origin, what, outcome) VALUES (?, ?, ?, ?, ?)",
		stamp(s.now()), c.who.name, c.RemoteAddr, what, outcome)
	if err != nil {
		s.log.Error("audit log", "what", what, "error", err)
	}
}

// auditPage is how many of the newest entries are shown.
const auditPage = 1000

func (s *Server) getAudit(c *call) error {
	entries, err := collect(c.Context(), s.db, func(r *sql.Rows, e *api.AuditEntry) error {
		var at string
		if err := r.Scan(&at, &e.Who, &e.From, &e.What, &e.Outcome); err != nil {
			return err
		}
		var err error
		e.At, err = parseStamp(at)
		return err
	}, "SELECT at, who, origin, what, outcome FROM audit ORDER BY id DESC LIMIT ?", auditPage)
	if err != nil {
		return err
	}
	return c.reply(entries)
}
