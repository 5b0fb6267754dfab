/*
 * What the engine asks of the operating system; the rest of the core makes no system call but futexes, clocks, reads
 * and signals. Ranges are page-aligned and not empty; 0 is success, otherwise -errno; on failure nothing has changed
 * unless the comment says so. All of it may be called in a signal handler, except where "set-up" is said.
 */
#ifndef PF_OS_H
#define PF_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- mem.c: mappings ------------------------------------------------------------------------------------------- */

typedef struct {
  uint8_t *addr;
  size_t len;
} pf_span_t;

size_t pf_os_page_size(void);

/* Zeroed private memory that costs nothing until touched, excluded from core dumps' size limits and never inherited by fork. */
int pf_mem_reserve(size_t len, const char *name, void **addr);

/* Memory for a region: `len` bytes of `prot`, page-aligned to `align`, then one inaccessible guard page, so that neighbours do
 * not merge into one kernel mapping and an overrun is a fault. Set-up. */
int pf_mem_map_region(size_t len, size_t align, int prot, const char *name, uint8_t **addr);
/* The same over one object, mapped twice: inaccessible for the user, readable and writable for us. Set-up. */
int pf_mem_map_twice(size_t len, size_t align, const char *name, uint8_t **user, uint8_t **ours);
/* Lays the twice-mapped object over memory that exists (a runtime's own mapping). On failure the old mapping may be gone. Set-up. */
int pf_mem_map_twice_at(uint8_t *user, size_t len, const char *name, uint8_t **ours);
void pf_mem_unmap_region(uint8_t *addr, size_t len);
void pf_mem_unmap(void *addr, size_t len);

int pf_mem_protect(void *addr, size_t len, int prot);
/* Private memory: the pages are gone, the next touch is a fault. */
int pf_mem_drop(void *addr, size_t len);
/* The same for many spans: one system call where the kernel can. */
int pf_mem_drop_many(const pf_span_t *spans, size_t count);
bool pf_mem_drops_vectored(void);
/* Shared memory, through our own mapping: the pages are gone from the object. */
int pf_mem_punch(void *ours, size_t len);
int pf_mem_not_inherited(void *addr, size_t len);
/* 1 when the kernel has all of the range at hand, 0 when a touch somewhere in it would fault (or swap in), else -errno. */
int pf_mem_resident(void *addr, size_t len);
/* A page that reads 0 in a forked child. Set-up. */
int pf_mem_wiped_on_fork(_Atomic uint32_t **word);
/* File descriptors that mem.c and uffd.c hold, for leak tests. */
unsigned pf_os_descriptors(void);

/* --- uffd.c: userfaultfd(2) ---------------------------------------------------------------------------------- */

typedef struct {
  int user_mode_errno;   /* 0 when user-mode-only works, else why not */
  int kernel_mode_errno; /* the same for faults of the kernel */
  int device_errno;      /* the same for opening /dev/userfaultfd */
  uint64_t features;     /* of UFFDIO_API, 0 where refused */
} pf_uffd_probe_t;

void pf_uffd_probe(pf_uffd_probe_t *out);
/* Opens the one userfaultfd of this process (SIGBUS, user-mode-only); again: nothing. Set-up. */
int pf_uffd_start(void);
/* Missing pages of the range become SIGBUS. -ENOMEM: the kernel's limit on mappings. Set-up. */
int pf_uffd_register(void *addr, size_t len);
/* Opens `len` bytes of missing pages with the bytes of src. -EEXIST: a page was there, *done bytes before it are open. -EFAULT: src
 * cannot be read. -ENOENT: the range is not registered (any more). -ENOMEM. -EAGAIN: try again. */
int pf_uffd_copy(void *addr, const void *src, size_t len, size_t *done);
int pf_uffd_zero(void *addr, size_t len, size_t *done);

#endif
