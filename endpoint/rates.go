package endpoint

import "maps"

// ratesFile keeps how fast sources were, for estimates. It is a hint: when it is lost or damaged, times are unknown until the next
// transfer.
const ratesFile = "rates.json"

// rates returns the bytes a second that sources gave lately.
func (e *Engine) rates() map[string]float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.speed)
}

// learnRates remembers what a transfer has measured. The last one counts as much as all before it: lines change.
func (e *Engine) learnRates(measured map[string]float64) {
	if len(measured) == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for kind, rate := range measured {
		if had := e.speed[kind]; had > 0 {
			rate = (rate + had) / 2
		}
		e.speed[kind] = rate
	}
	if err := writeJSON(e.fsys, ratesFile, e.speed); err != nil {
		e.log.Warn("store rates", "error", err)
	}
}

// loadRates reads what earlier processes have measured.
func (e *Engine) loadRates() {
	e.speed = map[string]float64{}
	if err := readJSON(e.fsys, ratesFile, &e.speed); err != nil || e.speed == nil {
		e.log.Warn("read rates", "error", err)
		e.speed = map[string]float64{}
	}
	maps.DeleteFunc(e.speed, func(_ string, rate float64) bool { return rate <= 0 })
}
