package xec

// LogInvocation lets tests choose the socket of the syslog daemon.
var LogInvocation = logInvocation
