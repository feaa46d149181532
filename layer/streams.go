package layer

import (
	"disksync/image"
	"disksync/internal/recompress"
)

// streams finds the deflate streams in the blocks of a disk, which are shown to it in their order: a stream may go on from one to the next.
type streams struct {
	scanner recompress.Scanner
	next    int // the number behind that of the last block
}

func (s *streams) scan(block []byte, number int) []recompress.Run {
	runs := s.scanner.Scan(block, number == s.next)
	s.next = number + 1
	return runs
}

// codedRuns returns those of a block's runs of which all sectors are coded, with their places in the coded sectors, joined, and about how
// many bytes they grow by.
func codedRuns(runs []recompress.Run, pieces []piece) (out []recompress.Run, grow int) {
	first, joined := 0, 0 // sectors before the piece: of the block, and of those the coded ones
	for _, p := range pieces {
		from, to := first*image.SectorSize*8, (first+p.n)*image.SectorSize*8 // bits
		for len(runs) > 0 && runs[0].Start < to {
			r := runs[0]
			runs = runs[1:]
			if p.kind != coded || r.Start < from || r.End > to {
				continue
			}
			r.Start += (joined - first) * image.SectorSize * 8
			r.End += (joined - first) * image.SectorSize * 8
			out = append(out, r)
			grow += r.Size()
		}
		first += p.n
		if p.kind == coded {
			joined += p.n
		}
	}
	return out, grow
}
