package lzma

// Parameters of the format, with the names of the specification.
const (
	lc        = 3 // bits of the byte before that choose a literal's probabilities
	pb        = 2 // bits of the position that choose other probabilities
	posStates = 1 << pb
	posMask   = posStates - 1

	minMatch = 2
	maxMatch = 273

	probBits = 11
	probInit = 1 << (probBits - 1)
	moveBits = 5
	topValue = 1 << 24

	states        = 12
	literalStates = 7 // states below have a literal behind them

	lenStates  = 4 // classes of match lengths that choose the probabilities of distances
	slotBits   = 6
	alignBits  = 4
	alignSize  = 1 << alignBits
	alignMask  = alignSize - 1
	firstModel = 4  // distance slots from here on have bits behind them …
	endModel   = 14 // … which have probabilities of their own below this one
	fullDist   = 1 << (endModel / 2)

	lowLens  = 8
	midLens  = 8
	highLens = 256
)

// prob is the probability that a bit is 0, in units of 1/2048.
type prob = uint16

// lengths are the probabilities of match lengths.
type lengths struct {
	choice, choice2 prob
	low, mid        [posStates][lowLens]prob
	high            [highLens]prob
}

// model is everything that adapts.
type model struct {
	isMatch    [states][posStates]prob
	isRep      [states]prob
	isRep0     [states]prob
	isRep1     [states]prob
	isRep2     [states]prob
	isRep0Long [states][posStates]prob
	slot       [lenStates][1 << slotBits]prob
	special    [1 + fullDist - endModel]prob
	align      [alignSize]prob
	match, rep lengths
	literal    [1 << lc][0x300]prob
}

func fill(p []prob) {
	for i := range p {
		p[i] = probInit
	}
}

func (l *lengths) reset() {
	l.choice, l.choice2 = probInit, probInit
	for i := range posStates {
		fill(l.low[i][:])
		fill(l.mid[i][:])
	}
	fill(l.high[:])
}

// reset forgets what was learnt.
func (m *model) reset() {
	for s := range states {
		fill(m.isMatch[s][:])
		fill(m.isRep0Long[s][:])
		m.isRep[s], m.isRep0[s], m.isRep1[s], m.isRep2[s] = probInit, probInit, probInit, probInit
	}
	for i := range m.slot {
		fill(m.slot[i][:])
	}
	fill(m.special[:])
	fill(m.align[:])
	m.match.reset()
	m.rep.reset()
	for i := range m.literal {
		fill(m.literal[i][:])
	}
}

// What was coded last, for choosing probabilities.
var (
	afterLiteral  = [states]uint8{0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 4, 5}
	afterMatch    = [states]uint8{7, 7, 7, 7, 7, 7, 7, 10, 10, 10, 10, 10}
	afterRep      = [states]uint8{8, 8, 8, 8, 8, 8, 8, 11, 11, 11, 11, 11}
	afterShortRep = [states]uint8{9, 9, 9, 9, 9, 9, 9, 11, 11, 11, 11, 11}
)

// lenState returns the class of a match length.
func lenState(n int) int { return min(n-minMatch, lenStates-1) }
