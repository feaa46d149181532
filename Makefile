# Two commands are for everybody: "make demo" shows what this is, "make test" shows that it works. The others are for developers.
GO ?= go

# The race detector needs a C compiler; the programs themselves are built without one. The inner loops of packing share nothing, and take
# the detector twenty times as long; so it does not look at them.
RACE = CGO_ENABLED=1 $(GO) test -race -gcflags=disksync/internal/lzma=-race=false -gcflags=disksync/internal/recompress=-race=false
# The demonstration moves whole disks, which takes the detector long; what it is made of is tested with it.
RACED = $$($(GO) list ./... | grep -v '/internal/demo')
# Test programs of the race detector pause for a second at their end unless told not to.
export GORACE = atexit_sleep_ms=0

FUZZTIME ?= 10m
PARSERS = \
	vhd:FuzzOpen vhd:FuzzChain vhd:FuzzCheck vhd:FuzzRepair vhd:FuzzLog disk/nbd:FuzzServe vhd/vhdfile:FuzzInspect layer:FuzzReadIndex layer:FuzzReadPiece \
	layer:FuzzDifference agefile:FuzzOpen internal/lzma:FuzzDecode internal/recompress:FuzzJoin internal/recompress:FuzzScan internal/limit:FuzzParse image:FuzzVerifyManifest image:FuzzParseState \
	cache:FuzzScan media/disc:FuzzOpen diskmap:FuzzScan diskmap:FuzzParse volume/udf:FuzzOpen volume/iso9660:FuzzOpen volume/fat:FuzzOpen volume/exfat:FuzzOpen \
	volume/ext:FuzzOpen volume/ntfs:FuzzOpen volume/table:FuzzPartitions internal/mediachild:FuzzAnswers syncclient:FuzzParts \
	xec:FuzzParseValue xec:FuzzParseObject

.PHONY: demo test build gate fuzz soak bench machine clean

demo:
	@scripts/setup demo
	@$(GO) run ./internal/demo

test:
	@scripts/setup test
	$(RACE) -timeout 40m $(RACED)
	$(GO) test ./internal/demo...

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/...

# What a change must pass besides the tests.
gate:
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) mod tidy -diff
	CGO_ENABLED=0 $(GO) build ./...

# Each parser of foreign bytes, for FUZZTIME: a time, or a number of inputs as 3000x.
fuzz:
	@for p in $(PARSERS); do \
		echo "fuzz $$p"; \
		$(GO) test ./$${p%%:*} -run '^$$' -fuzz "^$${p##*:}$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x || exit 1; \
	done

# The long versions of tests that are sampled in "make test".
soak:
	@scripts/setup test
	DISKSYNC_SOAK=1 DISKSYNC_KILL_ROUNDS=500 $(RACE) -timeout 12h $(RACED)

# The benchmarks of the packages, then the comparison with other programs, which writes docs/benchmarks.md. With WORK=/folder it
# compares with the three versions of a disk that are there as v1.raw, v2.raw and v3.raw; v2t.raw and v3t.raw may be the same with
# free space discarded. BENCHFLAGS="--cases blocks" measures block devices only and keeps the rest of the page. RUNS is how often
# everything is measured, SIZE the size in MiB of what is moved on the disks made for it. BENCHFLAGS="--cases large" measures what publishing a
# disk of 256 GiB takes, which is not measured otherwise: it needs FUSE, 8 GiB of room and half an hour or more; with "--large 32" it is a disk of 32 GiB.
WORK ?=
RUNS ?= 3
SIZE ?= 64
bench: build
	@scripts/setup bench
	$(GO) test -run '^$$' -bench . -benchtime 5x ./...
	@$(GO) run ./internal/bench --work "$(WORK)" --runs $(RUNS) --size $(SIZE) $(BENCHFLAGS)

# A whole Debian machine in QEMU, and on it what IT and users do, for people to look at: it is installed by dist/README.md, sticks are pulled,
# the power is cut. As root; it takes a quarter of an hour, and is not part of "make test". STEPS are some of scripts/machine.d.
STEPS ?=
machine: build
	@scripts/setup machine
	@scripts/machine $(STEPS)

clean:
	rm -rf bin
