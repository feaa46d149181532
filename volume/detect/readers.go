package detect

// readers returns the readers in the order in which they are tried.
func readers() []Reader {
	return []Reader{}
}
