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
/* True of a -errno that says that a limit is reached: it may be otherwise the next time, so nothing is concluded from it. */
bool pf_os_is_exhausted(int err);

/* Zeroed private memory that costs nothing until touched, excluded from core dumps' size limits and never inherited by fork. */
int pf_mem_reserve(size_t len, const char *name, void **addr);
/* The same, but a forked child has it. */
int pf_mem_reserve_inherited(size_t len, const char *name, void **addr);

/* Memory for a region: `len` bytes, aligned to `align`, then one guard page, so that neighbours do not merge into one kernel mapping and an overrun is a
 * fault. All of it is inaccessible: registered first and opened then, it is never seen with the kernel's zeroes in it. Set-up. */
int pf_mem_map_region(size_t len, size_t align, const char *name, uint8_t **addr);
/* Memory of regions up to this size is in a core, with the pages that are there; memory objects never are. */
#define PF_MEM_DUMP_MAX ((size_t)256 << 20)
/* Leaves it out of cores. */
void pf_mem_no_dump(void *addr, size_t len);
/* The same over one object, mapped twice: inaccessible for the user, readable and writable for us. Set-up. */
int pf_mem_map_twice(size_t len, size_t align, const char *name, uint8_t **user, uint8_t **ours);
/* A memory object of `len` bytes that can be sealed; the descriptor is the caller's. Set-up. */
int pf_mem_object(size_t len, const char *name, int *fd);
/* Maps it readable and writable, for us: never inherited, never huge. Set-up. */
int pf_mem_map_ours(int fd, size_t len, uint8_t **ours);
/* Puts a part of a memory object (or, fd -1, private memory) in the place of what is mapped at addr, inaccessible. Set-up. */
int pf_mem_replace(uint8_t *addr, size_t len, int fd, uint64_t offset, const char *name);
/* The same with what is mapped, shared, at `twin`. Set-up. */
int pf_mem_replace_by_twin(uint8_t *addr, size_t len, uint8_t *twin);
/* Lays the twice-mapped object over memory that exists (a runtime's own mapping). On failure the old mapping may be gone. Set-up. */
int pf_mem_map_twice_at(uint8_t *user, size_t len, const char *name, uint8_t **ours);
void pf_mem_unmap_region(uint8_t *addr, size_t len);
/* The same in one step, but nothing else comes to lie there before pf_mem_unmap_region: inaccessible, and nowhere registered. It has no name, so that neighbours become
 * one mapping. -errno: unmapped, which is so too where addresses are limited (RLIMIT_AS), and would be missing elsewhere. */
int pf_mem_bar_region(uint8_t *addr, size_t len);
void pf_mem_unmap(void *addr, size_t len);

int pf_mem_protect(void *addr, size_t len, int prot);
/* Private memory: the pages are gone, the next touch is a fault. */
int pf_mem_drop(void *addr, size_t len);
/* The same for many spans: one system call where the kernel can. */
int pf_mem_drop_many(const pf_span_t *spans, size_t count);
bool pf_mem_drops_vectored(void);
/* Shared memory, through our own mapping: the pages are gone from the object. */
int pf_mem_punch(void *ours, size_t len);
/* 1 when the kernel has all of the range at hand, 0 when a touch somewhere in it would fault (or swap in), else -errno. */
int pf_mem_resident(void *addr, size_t len);
/* hand.c: the same of many spans in few system calls, for which a touch that only swaps in is none. -errno: it cannot tell, now or ever. */
int pf_mem_at_hand(const pf_span_t *spans, size_t count);
/* A page that reads 0 in a forked child. Set-up. */
int pf_mem_wiped_on_fork(_Atomic uint32_t **word);
/* File descriptors that mem.c, hand.c and own_uffd.c hold, for leak tests. */
unsigned pf_os_descriptors(void);

/* --- adopt.c: memory that exists ------------------------------------------------------------------------------- */

typedef struct {
  size_t mapped;  /* bytes from the start without a hole, at most all of the range */
  size_t open;    /* of these, from the start, readable and writable */
  size_t reserve; /* bytes right behind the range that are reserved, anonymous and inaccessible */
  bool anonymous; /* all of it is private memory that no file stands behind */
} pf_mem_seen_t;

/* What the kernel says of a range and of what follows it. 0 or -errno. Set-up. */
int pf_mem_look(const void *addr, size_t len, pf_mem_seen_t *out);
/* Drops what the range holds and makes it inaccessible. `exists` bytes of `len` are memory, the rest is reserved and inaccessible and stays so. Not
 * `as_it_is`: by new mappings, because the old ones are not private memory, or registered. Not inherited by fork. On failure the contents may be
 * gone. Set-up. */
int pf_mem_adopt(uint8_t *addr, size_t exists, size_t len, bool as_it_is);
/* Makes it ordinary, empty memory again, registered nowhere. Set-up. */
void pf_mem_give_back(uint8_t *addr, size_t exists, size_t len);

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
/* The same for threads that nothing else wakes, and that would wait for ever: tried again where it fails. */
int pf_uffd_rouse(int fd, uint64_t addr, uint64_t len);
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

/* --- own_uffd.c: the engine's userfaultfds ------------------------------------------------------------------------------ */

typedef enum {
  PF_OWN_ASYNC, /* writes are noted by the kernel, where it can; also for read-only regions */
  PF_OWN_SYNC,  /* a write to a protected page is a fault */
  PF_OWN_SERVED_ASYNC, /* the same two, whose faults, those of system calls too, are messages for the service thread (service.c) */
  PF_OWN_SERVED_SYNC,
  PF_OWNS
} pf_own_t;

static inline pf_own_t pf_own_which(bool sync, bool served) { return (pf_own_t)((sync ? PF_OWN_SYNC : PF_OWN_ASYNC) + (served ? PF_OWN_SERVED_ASYNC : 0)); }
static inline bool pf_own_is_sync(pf_own_t which) { return which & PF_OWN_SYNC; }
static inline bool pf_own_is_served(pf_own_t which) { return which >= PF_OWN_SERVED_ASYNC; }

/* Opens it; again: nothing. -EOPNOTSUPP: this kernel cannot (or was told not to: PAGEFAULT_WITHOUT). -EPERM and others, of a served one: this process may not have
 * the faults of the kernel. Set-up. */
int pf_own_uffd_start(pf_own_t which);
/* Its descriptor, once it was started. */
int pf_own_uffd_descriptor(pf_own_t which);
/* A descriptor of /dev/userfaultfd from which ours are made from here on, where the system call is refused. It stays the caller's. 0;
 * -ENOTTY: it is none. Set-up. */
int pf_own_uffd_lend(int device);
/* The same for what the environment names (PAGEFAULT_USERFAULTFD), which is empty then: programs that this one starts get the variable and not the descriptor. Nothing
 * where there is one that was lent. Set-up. */
int pf_own_uffd_take(int device);
/* 0 when one can be had here, else why not (an errno). `served`: with the faults of the kernel. *device: from a descriptor of /dev/userfaultfd. Set-up. */
int pf_own_uffd_may(bool served, bool *device);
/* Threads that wait for a page of the range look again. */
int pf_own_uffd_wake(pf_own_t which, void *addr, size_t len);
#define PF_OWN_CAN_MINOR (1ULL << 10)
#define PF_OWN_CAN_PROTECT_SHARED (1ULL << 12 | 1ULL << 13)
/* Features that were granted (bits of UFFDIO_API), less those that PAGEFAULT_WITHOUT names; 0 before it was started. */
uint64_t pf_own_uffd_features(pf_own_t which);
/* True when the kernel notes writes, says which, and can move pages: what an asynchronous one needs for writable regions. */
bool pf_own_uffd_tracks(pf_own_t which);
/* The better of the two that regions could be written with here (pf_own_t), -EOPNOTSUPP, or what pf_os_is_exhausted says. Starts nothing. */
int pf_own_uffd_offers(void);
/* What memory that is mapped from an object can be here: PF_OWN_MINOR, PF_OWN_PROTECT (writable, too). Starts nothing. */
unsigned pf_own_uffd_offers_shared(void);
#define PF_OWN_PROTECT 1u /* pages can be write-protected */
#define PF_OWN_MINOR 2u   /* shared memory: pages that exist and are not mapped are faults too */
/* Missing pages of the range become faults that are ours. -ENOMEM: the kernel's limit on mappings. Set-up. */
int pf_own_uffd_register(pf_own_t which, void *addr, size_t len, unsigned modes);
/* Opens `len` bytes of missing pages with the bytes of src. -EEXIST: a page was there, *done bytes before it are open. -EFAULT: src
 * cannot be read. -ENOENT: the range is not registered (any more). -ENOMEM. -EAGAIN: try again. */
int pf_own_uffd_copy(pf_own_t which, void *addr, const void *src, size_t len, bool protect, size_t *done);
int pf_own_uffd_zero(pf_own_t which, void *addr, size_t len, size_t *done);
/* Opens pages of shared memory that exist; those that are open already stay as they are. -EFAULT: one does not exist. */
int pf_own_uffd_continue(pf_own_t which, void *addr, size_t len, bool protect);
/* Of pages that are there. */
int pf_own_uffd_protect(pf_own_t which, void *addr, size_t len, bool on);
/* Moves whole pages, atomically each, from `from` to missing pages at `to`. Where it fails, nothing can be said of any of them: ask pf_own_uffd_holds
 * (6.18: EEXIST under load although a page was moved). */
int pf_own_uffd_move(pf_own_t which, void *to, void *from, size_t len);
/* 1 when all of the range has pages (present or swapped: a touch is no fault of ours), 0 when not, -errno. */
int pf_own_uffd_holds(void *addr, size_t len);
typedef void pf_own_range_t(void *context, uint8_t *start, uint8_t *end);
/* Calls `each` for the written pages of the range, merged, ascending. 0 or -errno; what was told before a failure is true. */
int pf_own_uffd_written(void *addr, size_t len, pf_own_range_t *each, void *context);
/* The same, and from here on they count as not written. After a failure others may, of which nothing was told. */
int pf_own_uffd_arm(void *addr, size_t len, pf_own_range_t *each, void *context);

#endif
