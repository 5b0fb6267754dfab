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
/* File descriptors that mem.c and own_uffd.c hold, for leak tests. */
unsigned pf_os_descriptors(void);

/* --- uffd.c: userfaultfd(2), on any descriptor -------------------------------------------------------------------- */

typedef struct {
  int user_mode_errno;   /* 0 when user-mode-only works, else why not */
  int kernel_mode_errno; /* the same for faults of the kernel */
  int device_errno;      /* the same for opening /dev/userfaultfd */
  uint64_t features;     /* of UFFDIO_API, 0 where refused */
} pf_uffd_probe_t;

/* Set-up. */
void pf_uffd_probe(pf_uffd_probe_t *out);
/* A new descriptor, before its handshake: by the system call, or, where `device` is not negative, from that descriptor of /dev/userfaultfd
 * (6.1). `flags`: O_CLOEXEC, O_NONBLOCK, PF_UFFD_USER_MODE_ONLY. */
int pf_uffd_open(int flags, int device);
/* UFFDIO_API. `offered` is what the kernel has, which may be more than was asked for. -EINVAL: it lacks one of `features` (the
 * descriptor may try again), or the handshake was made before. -EPERM: EVENT_FORK without CAP_SYS_PTRACE. */
int pf_uffd_handshake(int fd, uint64_t features, uint64_t *offered, uint64_t *ioctls);

/* Modes and results are the kernel's. */
int pf_uffd_register(int fd, uint64_t addr, uint64_t len, uint64_t mode, uint64_t *ioctls);
int pf_uffd_unregister(int fd, uint64_t addr, uint64_t len);
int pf_uffd_wake(int fd, uint64_t addr, uint64_t len);
int pf_uffd_write_protect(int fd, uint64_t addr, uint64_t len, uint64_t mode);
/* These return the bytes that were done, from the start, which may be fewer than `len`; -errno when there were none. */
int64_t pf_uffd_copy(int fd, uint64_t to, uint64_t from, uint64_t len, uint64_t mode);
int64_t pf_uffd_zeropage(int fd, uint64_t addr, uint64_t len, uint64_t mode);
int64_t pf_uffd_continue(int fd, uint64_t addr, uint64_t len, uint64_t mode);
int64_t pf_uffd_poison(int fd, uint64_t addr, uint64_t len, uint64_t mode);
/* 6.18: under load from several threads it may have moved pages and still say -EEXIST. */
int64_t pf_uffd_move(int fd, uint64_t to, uint64_t from, uint64_t len, uint64_t mode);

typedef enum { PF_UFFD_COPY, PF_UFFD_ZERO, PF_UFFD_CONTINUE } pf_uffd_what_t;
typedef struct {
  int fd;
  pf_uffd_what_t what;
  uint64_t to, from, len; /* `from` for PF_UFFD_COPY only */
  uint64_t page_size;     /* what is skipped when a page is there already */
  uint64_t mode;
} pf_uffd_job_t;
typedef struct {
  uint64_t dealt, copied, present; /* bytes from the start; of these, put there by this call, and there already */
} pf_uffd_done_t;

/* The whole range, past pages that are there (whose waiters are woken, unless `mode` says not to); marks of write protection, poison or a guard
 * are no pages, and are replaced. 0, or -errno of what stopped it: -EAGAIN
 * after about a millisecond without progress (an event is unread), -ENOENT not registered, -ESRCH the process has ended. `out` holds in
 * any case. */
int pf_uffd_resolve(const pf_uffd_job_t *job, pf_uffd_done_t *out);

/* Bytes of messages, or -errno; -EAGAIN: there is none. */
int64_t pf_uffd_read(int fd, void *into, size_t len);
/* The same, but never waits: -EDEADLK when somebody who shares the descriptor has made it blocking and nothing is there. */
int64_t pf_uffd_read_now(int fd, void *into, size_t len);

/* --- own_uffd.c: the engine's userfaultfd ------------------------------------------------------------------------------- */

/* Opens the one userfaultfd of this process (SIGBUS, user-mode-only); again: nothing. Set-up. */
int pf_own_uffd_start(void);
/* Missing pages of the range become SIGBUS. -ENOMEM: the kernel's limit on mappings. Set-up. */
int pf_own_uffd_register(void *addr, size_t len);
/* Opens `len` bytes of missing pages with the bytes of src. -EEXIST: a page was there, *done bytes before it are open. -EFAULT: src
 * cannot be read. -ENOENT: the range is not registered (any more). -ENOMEM. -EAGAIN: try again. */
int pf_own_uffd_copy(void *addr, const void *src, size_t len, size_t *done);
int pf_own_uffd_zero(void *addr, size_t len, size_t *done);

#endif
