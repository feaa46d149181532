package diskmap

import (
	"encoding/binary"
	"strings"
)

// swapPages are the sizes of pages that machines have. The mark is at the end of the first page.
var swapPages = []int64{4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10}

// swapMarks are in the place of swapMark when a system sleeps in the swap space.
var sleepMarks = []string{"S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001", "\xed\xc3\x02\xe9\x98\x56\xe5\x0c"}

const (
	swapMark    = "SWAPSPACE2"
	oldSwapMark = "SWAP-SPACE"
)

// swapPage returns the size of a page and the mark of a swap space.
func swapPage(head []byte) (int64, string) {
	for _, size := range swapPages {
		if int64(len(head)) < size {
			break
		}
		mark := string(head[size-int64(len(swapMark)) : size])
		if mark == swapMark || mark == oldSwapMark {
			return size, mark
		}
		for _, m := range sleepMarks {
			if strings.HasPrefix(mark, m) {
				return size, m
			}
		}
	}
	return 0, ""
}

func isSwap(head []byte) bool {
	page, _ := swapPage(head)
	return page != 0
}

// openSwap frees the pages of a swap space: what is in them means something only to the system that wrote them, while it runs.
func openSwap(s *scan, r region, _ *Volume) (*zone, error) {
	head, err := r.bytes(0, min(headBytes, r.size))
	if err != nil {
		return nil, err
	}
	page, mark := swapPage(head)
	switch mark {
	case swapMark:
	case oldSwapMark:
		return nil, keep("it is a swap space of an old kind")
	default:
		return nil, keepDisk("a system sleeps in its swap space, and will go on with what it remembers of this disk")
	}
	version, last := binary.LittleEndian.Uint32(head[1024:]), int64(binary.LittleEndian.Uint32(head[1028:]))
	if version != 1 || last == 0 {
		return nil, keep("its header makes no sense")
	}
	z, err := s.zone(r, 0, page, last+1)
	if err != nil {
		return nil, err
	}
	z.set(1, z.n, true)
	return z, nil
}
