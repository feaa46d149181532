package endpoint

import (
	"slices"

	"disksync/config"
	"disksync/internal/limit"
	"disksync/internal/problem"
)

// What people are told of a limit that lets nothing through.
const (
	limitedBySetting = "the setting " + config.DownloadLimit + " is off"
	limitedUploads   = "the setting " + config.UploadLimit + " is off"
	limitedByRequest = "the --limit of the command is off"
	limitedByMetered = "the connection is metered, and the setting " + config.MeteredConnections + " says so"
)

// newOperationOf returns an operation with limits of its own.
func (e *Engine) newOperationOf(s Status) *Operation {
	return &Operation{
		e: e, id: s.ID, status: s, own: limit.New(limitedByRequest, limit.Schedule{}), metered: limit.New(limitedByMetered, limit.Schedule{}),
	}
}

// limits are what an operation is held to, all at the same time.
func (o *Operation) limits() limit.Chain {
	if o.Status().Request.Kind == Backup {
		return limit.Chain{o.e.up, o.own, o.metered}
	}
	return limit.Chain{o.e.limit, o.own, o.metered}
}

// checkLimit reads the limit of a request.
func checkLimit(text string) (limit.Schedule, error) {
	l, err := limit.Parse(text)
	if err != nil {
		return l, problem.New("DS-USAGE", problem.Usage, err, "this is no limit", "nothing was changed", "give one as 500K, 10M, 60% or 1M@Mon-Fri/8-18")
	}
	return l, nil
}

// Metered tells the engine whether the connection is metered: what is taken from it is paid for, or runs out. What nobody asked for by
// name, or asked for before, is then held to the setting.
func (e *Engine) Metered(metered bool) {
	e.mu.Lock()
	changed := e.metered != metered
	e.metered = metered
	e.mu.Unlock()
	if changed {
		e.log.Info("connection", "metered", metered)
		e.applyMetered()
	}
}

// isMetered reports whether the connection is.
func (e *Engine) isMetered() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.metered
}

func (e *Engine) applyMetered() {
	for _, o := range e.Operations() {
		o.applyMetered()
	}
}

// applyMetered holds an operation to what may be taken of a metered connection, if it is one.
func (o *Operation) applyMetered() {
	metered := o.e.isMetered()
	o.mu.Lock()
	asked := o.asked
	o.mu.Unlock()
	if !metered || asked {
		o.metered.Set(limit.Schedule{})
		return
	}
	o.metered.Set(o.e.Settings().Metered())
}

// askFor notes that somebody wants the operation to go on now. Where the connection is metered and the operation was named, it is not
// held up for that until it ends; somebody who waits knows better than a setting, and is told.
func (o *Operation) askFor(named bool) {
	asked := named && o.e.isMetered()
	o.mu.Lock()
	o.asked = asked
	running := o.done != nil && !o.queued
	o.mu.Unlock()
	o.applyMetered()
	if running {
		o.change(false, func(s *Status) { s.Notes = o.withMeteredNote(s.Notes) })
	}
}

// withMeteredNote adds what the user should know of a metered connection. It is called with o.mu held.
func (o *Operation) withMeteredNote(notes []string) []string {
	note := "the connection is metered; this goes ahead because it was asked for by name"
	if !o.asked || o.e.Settings().Get(config.MeteredConnections) == "allow" || slices.Contains(notes, note) {
		return notes
	}
	return append(slices.Clone(notes), note)
}
