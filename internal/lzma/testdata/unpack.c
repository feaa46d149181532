/* unpack DICT PACKED LENGTH: unpacks a raw LZMA1 stream with a preset dictionary, by liblzma, to standard output. */
#include <lzma.h>
#include <stdio.h>
#include <stdlib.h>

static unsigned char *slurp(const char *name, size_t *n) {
	FILE *f = fopen(name, "rb");
	if (!f) exit(2);
	fseek(f, 0, SEEK_END);
	*n = ftell(f);
	rewind(f);
	unsigned char *b = malloc(*n + 1);
	if (fread(b, 1, *n, f) != *n) exit(2);
	fclose(f);
	return b;
}

int main(int argc, char **argv) {
	if (argc != 4) return 2;
	size_t dictlen, inlen, outlen = strtoul(argv[3], NULL, 10);
	unsigned char *dict = slurp(argv[1], &dictlen), *in = slurp(argv[2], &inlen), *out = malloc(outlen);
	lzma_options_lzma o = {0};
	o.dict_size = 1 << 24;
	o.lc = 3;
	o.lp = 0;
	o.pb = 2;
	if (dictlen) {
		o.preset_dict = dict;
		o.preset_dict_size = dictlen;
	}
	lzma_filter filters[] = {{LZMA_FILTER_LZMA1, &o}, {LZMA_VLI_UNKNOWN, NULL}};
	lzma_stream s = LZMA_STREAM_INIT;
	if (lzma_raw_decoder(&s, filters) != LZMA_OK) return 3;
	s.next_in = in;
	s.avail_in = inlen;
	s.next_out = out;
	s.avail_out = outlen;
	while (s.avail_out > 0) {
		lzma_ret r = lzma_code(&s, LZMA_RUN);
		if (r != LZMA_OK && !(r == LZMA_STREAM_END && s.avail_out == 0)) return 4;
		if (s.avail_in == 0 && s.avail_out > 0) return 5;
	}
	return fwrite(out, 1, outlen, stdout) == outlen ? 0 : 6;
}
