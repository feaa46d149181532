// Package agefile writes plain age v1 files (https://age-encryption.org/v1), and reads them at random and from ranges of bytes that come
// one behind the other. The bytes of a file are those that the age program writes: a header with the file's key for each recipient, a
// nonce, and chunks of 64 KiB of content, each with a tag of 16 bytes that is bound to its number. Of the kinds of recipients X25519 alone
// is used, because every age program reads it.
//
// What is encrypted can be read by whoever has one of the identities, and cannot be changed, cut or put together anew by whoever has none.
// Who wrote it is not known: recipients are public.
package agefile
