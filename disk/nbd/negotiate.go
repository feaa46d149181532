package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	// maxOptionData is the longest option that is looked at, in bytes; a name has 4096 at most ("Conventions").
	maxOptionData = 64 << 10
	// maxSkipped is how much of a longer option is read to answer it; behind that the client is disconnected.
	maxSkipped = 1 << 20
	// maxOptions bounds a negotiation.
	maxOptions = 256
	// optionTime is how long a client may take for one option.
	optionTime = time.Minute
	maxName    = 4096
)

// errAbort is the end of a negotiation that leads to no transmission and is no fault.
var errAbort = errors.New("nbd: the client ended the negotiation")

// negotiation is the handshake phase of one connection.
type negotiation struct {
	srv  *server
	conn net.Conn
	in   *bufio.Reader

	noZeroes   bool
	structured bool
	context    string // the export whose base:allocation was chosen
	chosen     bool

	// What was settled on.
	dev  Device
	name string
}

// run leads the connection to the transmission phase ("Fixed newstyle negotiation").
func (n *negotiation) run(ctx context.Context) error {
	hello := binary.BigEndian.AppendUint64(nil, magicServer)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)
	if _, err := n.conn.Write(hello); err != nil {
		return err
	}
	if err := n.expect(ctx); err != nil {
		return err
	}
	var b [4]byte
	if _, err := io.ReadFull(n.in, b[:]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(b[:])
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return fmt.Errorf("unknown client flags %#x", flags)
	}
	n.noZeroes = flags&flagNoZeroes != 0
	for range maxOptions {
		if err := n.expect(ctx); err != nil {
			return err
		}
		done, err := n.option()
		if done || err != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d options", maxOptions)
}

// expect gives the client time for its next message. The end of ctx ends that time, whichever comes first here.
func (n *negotiation) expect(ctx context.Context) error {
	if err := n.conn.SetReadDeadline(time.Now().Add(optionTime)); err != nil {
		return err
	}
	return ctx.Err()
}

// option answers one option; done is set when transmission begins.
func (n *negotiation) option() (done bool, err error) {
	var h [16]byte
	if _, err := io.ReadFull(n.in, h[:]); err != nil {
		return false, err
	}
	if m := binary.BigEndian.Uint64(h[:]); m != magicOption {
		return false, fmt.Errorf("%#x where an option begins", m)
	}
	opt, length := binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
	if length > maxOptionData {
		if length > maxSkipped || opt == optExportName {
			return false, fmt.Errorf("an option of %d bytes", length)
		}
		if _, err := io.CopyN(io.Discard, n.in, int64(length)); err != nil {
			return false, err
		}
		return false, n.reply(opt, repErrTooBig, nil)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(n.in, data); err != nil {
		return false, err
	}
	switch opt {
	case optExportName:
		return true, n.exportName(string(data))
	case optAbort:
		return false, errors.Join(n.reply(opt, repAck, nil), errAbort)
	case optInfo, optGo:
		return n.info(opt, data)
	case optList:
		return false, n.list(data)
	case optStructuredReply:
		if len(data) > 0 {
			return false, n.reply(opt, repErrInvalid, nil)
		}
		n.structured = true
		return false, n.reply(opt, repAck, nil)
	case optListMetaContext, optSetMetaContext:
		return false, n.metaContext(opt, data)
	default:
		return false, n.reply(opt, repErrUnsup, nil)
	}
}

// reply sends one answer to an option.
func (n *negotiation) reply(opt, kind uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 20+len(data)), magicOptReply)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	_, err := n.conn.Write(append(b, data...))
	return err
}

// exportName is NBD_OPT_EXPORT_NAME, which cannot be answered with an error.
func (n *negotiation) exportName(name string) error {
	d, own, ok := n.srv.find(name)
	if !ok {
		return errAbort
	}
	n.dev, n.name = d, own
	b := binary.BigEndian.AppendUint64(nil, uint64(d.Size()))
	b = binary.BigEndian.AppendUint16(b, n.srv.transmissionFlags())
	if !n.noZeroes {
		b = append(b, make([]byte, zeroesPadding)...)
	}
	_, err := n.conn.Write(b)
	return err
}

// list is NBD_OPT_LIST.
func (n *negotiation) list(data []byte) error {
	if len(data) > 0 {
		return n.reply(optList, repErrInvalid, nil)
	}
	for _, name := range n.srv.names {
		if err := n.reply(optList, repServer, appendString(nil, name)); err != nil {
			return err
		}
	}
	return n.reply(optList, repAck, nil)
}

// info is NBD_OPT_INFO and NBD_OPT_GO.
func (n *negotiation) info(opt uint32, data []byte) (done bool, err error) {
	name, rest, ok := cutString(data)
	if !ok || len(name) > maxName || len(rest) < 2 || len(rest)-2 != 2*int(binary.BigEndian.Uint16(rest)) {
		return false, n.reply(opt, repErrInvalid, nil)
	}
	d, own, ok := n.srv.find(name)
	if !ok {
		return false, n.reply(opt, repErrUnknown, nil)
	}
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(d.Size()))
	b = binary.BigEndian.AppendUint16(b, n.srv.transmissionFlags())
	if err := n.reply(opt, repInfo, b); err != nil {
		return false, err
	}
	told := map[uint16]bool{} // no request is answered twice
	for rest = rest[2:]; len(rest) > 0; rest = rest[2:] {
		what := binary.BigEndian.Uint16(rest)
		if told[what] {
			continue
		}
		told[what] = true
		b := binary.BigEndian.AppendUint16(nil, what)
		switch what {
		case infoName:
			b = append(b, own...)
		case infoBlockSize:
			b = binary.BigEndian.AppendUint32(b, minBlock)
			b = binary.BigEndian.AppendUint32(b, goodBlock)
			b = binary.BigEndian.AppendUint32(b, maxPayload)
		default:
			continue
		}
		if err := n.reply(opt, repInfo, b); err != nil {
			return false, err
		}
	}
	if opt == optGo {
		n.dev, n.name = d, own
	}
	return opt == optGo, n.reply(opt, repAck, nil)
}

// metaContext is NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT ("Metadata querying"). There is one context.
func (n *negotiation) metaContext(opt uint32, data []byte) error {
	set := opt == optSetMetaContext
	if set {
		n.chosen = false // also when this fails
	}
	name, rest, ok := cutString(data)
	if !ok || len(name) > maxName || len(rest) < 4 || !n.structured {
		return n.reply(opt, repErrInvalid, nil)
	}
	queries := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	match := queries == 0 && !set
	for range queries {
		var q string
		if q, rest, ok = cutString(rest); !ok {
			return n.reply(opt, repErrInvalid, nil)
		}
		match = match || q == contextName || q == contextSpace && !set
	}
	if len(rest) > 0 {
		return n.reply(opt, repErrInvalid, nil)
	}
	_, own, ok := n.srv.find(name)
	if !ok {
		return n.reply(opt, repErrUnknown, nil)
	}
	if match {
		id := uint32(0)
		if set {
			id = contextID
			n.chosen, n.context = true, own
		}
		if err := n.reply(opt, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), contextName...)); err != nil {
			return err
		}
	}
	return n.reply(opt, repAck, nil)
}

// cutString takes a string with its length before it off b.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
