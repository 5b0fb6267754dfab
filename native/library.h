/* Which library, or program, some code lies in. May be asked in a handler: takes no lock and allocates nothing. */
#ifndef PF_LIBRARY_H
#define PF_LIBRARY_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
  const void *start; /* of its memory */
  uintptr_t bias;    /* what was added to the addresses in its file, those that addr2line takes */
  const char *path;  /* "" for the program itself; there as long as the library is */
} pf_library_t;

typedef enum {
  PF_LIBRARY_FOUND,
  PF_LIBRARY_NONE,   /* code made at run time, as JavaScript's and WebAssembly's, or no code at all */
  PF_LIBRARY_UNKNOWN /* cannot be asked here: glibc before 2.35, or another C library */
} pf_library_found_t;

pf_library_found_t pf_library_at(uintptr_t code, pf_library_t *out);

#endif
