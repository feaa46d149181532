package nbd

// What is on the wire, by doc/proto.md of the NBD project (github.com/NetworkBlockDevice/nbd). Numbers are sent with the highest
// byte first.

// "Newstyle negotiation" and "Transmission": what messages begin with.
const (
	magicServer     = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     = 0x49484156454f5054 // "IHAVEOPT", from both sides
	magicOptReply   = 0x0003e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef
)

// "Handshake flags" and "Client flags": the same two bits in both directions.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// "Transmission flags".
const (
	flagHasFlags        = 1 << 0
	flagReadOnly        = 1 << 1
	flagSendFlush       = 1 << 2
	flagSendFUA         = 1 << 3
	flagSendTrim        = 1 << 5
	flagSendWriteZeroes = 1 << 6
	flagSendDF          = 1 << 7
	flagCanMultiConn    = 1 << 8
	flagSendCache       = 1 << 10
	flagSendFastZero    = 1 << 11
)

// "Option types".
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMetaContext = 9
	optSetMetaContext  = 10
)

// "Option reply types".
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4
	repErrUnsup    = 1<<31 + 1
	repErrInvalid  = 1<<31 + 3
	repErrUnknown  = 1<<31 + 6
	repErrShutdown = 1<<31 + 7
	repErrTooBig   = 1<<31 + 9
)

// Information of NBD_OPT_INFO and NBD_OPT_GO.
const (
	infoExport    = 0
	infoName      = 1
	infoBlockSize = 3
)

// "Request types".
const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdCache       = 5
	cmdWriteZeroes = 6
	cmdBlockStatus = 7
)

// "Command flags".
const (
	cmdFlagFUA      = 1 << 0
	cmdFlagNoHole   = 1 << 1
	cmdFlagDF       = 1 << 2
	cmdFlagReqOne   = 1 << 3
	cmdFlagFastZero = 1 << 4
)

// "Structured reply flags" and "Structured reply types".
const (
	replyFlagDone        = 1 << 0
	replyTypeNone        = 0
	replyTypeOffsetData  = 1
	replyTypeOffsetHole  = 2
	replyTypeBlockStatus = 5
	replyTypeError       = 1<<15 + 1
)

// "Error values".
const (
	errnoPERM     = 1
	errnoIO       = 5
	errnoINVAL    = 22
	errnoNOSPC    = 28
	errnoNOTSUP   = 95
	errnoSHUTDOWN = 108
)

// The metadata context base:allocation and its flags.
const (
	contextName   = "base:allocation"
	contextSpace  = "base:"
	contextID     = 1
	stateHole     = 1 << 0
	stateZero     = 1 << 1
	zeroesPadding = 124 // behind the answer to NBD_OPT_EXPORT_NAME, without NO_ZEROES
)

// "Size constraints": the defaults of the specification, which every client may go by.
const (
	minBlock  = 1
	goodBlock = 4096
	// maxPayload is the largest read or write, in bytes.
	maxPayload = 32 << 20
)
