// Package limit says how much of a line a transfer may take, and when, and holds the transfer to it.
//
// A [Schedule] is what somebody wrote:
//
//	60%;10M@Mon-Fri/8-18    60 % of what the line gives, but 10 MiB a second from Monday to Friday, from 8 to 18 o'clock
//	off@Mon-Fri/8:30-17;1M@22-6
//
// in this grammar, in which letters count the same in either case and blanks may stand around a semicolon:
//
//	schedule = "" | entry { ";" entry }
//	entry    = amount [ "@" when ]
//	amount   = "unlimited" | "off" | "0" | PERCENT "%" | NUMBER [ "K" | "M" | "G" ]
//	when     = days [ "/" hours ] | hours
//	days     = dayspan { "," dayspan }        dayspan  = DAY [ "-" DAY ]
//	hours    = hourspan { "," hourspan }      hourspan = TIME "-" TIME
//
// PERCENT is a whole number from 1 to 100. NUMBER is a number of bytes a second, of at least 100, and may have a fraction before a
// unit (1.5M); K, M and G are 1024, 1024² and 1024³. DAY is Mon, Tue, Wed, Thu, Fri, Sat or Sun, and Sat-Mon is three days. TIME is
// an hour or HOUR:MINUTE, from 0 to 24, in local time. A span of hours begins with its first minute and ends before its last; 22-6
// wraps midnight, and its morning belongs to the day before: Fri/22-6 ends on Saturday.
//
// Of the entries whose time it is the last one counts, so the general ones come first. Where none fits, nothing is limited.
//
// A [Limiter] is a schedule at work: who reads from a line and writes to it asks for each piece, and waits. Each direction has the
// whole amount. [Chain] joins limiters that hold at the same time.
package limit
