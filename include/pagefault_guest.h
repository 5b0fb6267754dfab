/*
 * pagefault_guest.h: memory whose pages another process brings, one at a time, when they are touched.
 *
 * A pager (a Node.js program that calls spawnPaged() of the package "pagefault") starts your program. Your program asks for a
 * piece of memory that stands for a part of the pager's store, and uses it like any other memory: the first touch of a page stops
 * the thread that touches it until the pager has brought that page (Linux does that: userfaultfd(2)). Nothing is read ahead of
 * its use unless the pager wants it, so a program over a store of 100 GiB starts in milliseconds.
 *
 *   #include "pagefault_guest.h"                   // first, or compile with -D_GNU_SOURCE. Link with -pthread
 *
 *   static pagefault_guest guest;                  // must live as long as the process
 *
 *   int main(void) {
 *     void *memory;
 *     int err = pagefault_guest_connect(&guest);   // who started us?
 *     if (err == 0) {
 *       err = pagefault_guest_map(&guest, pagefault_guest_store_length(&guest), 0, &memory);
 *     }
 *     if (err != 0) {
 *       fprintf(stderr, "no paged memory: %s\n", strerror(-err));
 *       return 1;
 *     }
 *     printf("the store begins with %d\n", *(unsigned char *)memory);
 *   }
 *
 * Every function returns 0 or a negative errno. They may be called from any thread, at the same time too, but not from signal handlers;
 * do not cancel a thread inside one.
 *
 * What to know
 *
 *  - Linux 4.11; 5.18 for huge pages. No library but libc and pthread. C11 or C++17.
 *  - Privilege: none. With root, CAP_SYS_PTRACE, a readable /dev/userfaultfd (6.1) or the sysctl vm.unprivileged_userfaultfd=1,
 *    system calls may meet missing pages too: read(fd, memory, n) waits as a touch does. Without any of them (5.11), a system call that
 *    meets a missing page fails with EFAULT: touch the pages first. pagefault_guest_user_mode_only() tells.
 *  - When the pager dies, your process is killed (SIGKILL) with a sentence on stderr. Memory that cannot be had must not read as zeroes,
 *    and a thread that waits for it would wait forever. Before the first region, and after the last one has ended, it lives on.
 *  - fork(): the region is not in the new process; a touch there is a SIGSEGV, not a zero. The functions here return -ECHILD in it.
 *    exec(): the memory, the connection and the threads are gone, as everything else of the process. Programs that you start are not
 *    paged and inherit nothing, neither descriptor nor environment variable.
 *  - Threads: connect starts two small ones, which block all signals and never touch paged memory: one reads what the pager says, the
 *    other takes pages away where the pager says so (it has only so much memory for you); they come back at the next touch.
 *  - End a region with pagefault_guest_unpage(), not with munmap(); do not mremap() it. Other madvise() calls are fine.
 *  - One thread that waits for a page does not stop the others. A real-time thread should have touched (or mlock()ed) its pages before.
 */
#ifndef PAGEFAULT_GUEST_H
#define PAGEFAULT_GUEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if !defined(MAP_ANONYMOUS) || !defined(MADV_REMOVE)
#error "include pagefault_guest.h before any other header, or compile with -D_GNU_SOURCE"
#endif

/* The environment variable that names the connection. connect removes it. */
#define PAGEFAULT_GUEST_VARIABLE "PAGEFAULT_GUEST_FD"

/* How long connect waits for the pager's first message. Define it before including this file to change it. */
#ifndef PAGEFAULT_GUEST_HELLO_TIMEOUT_MS
#define PAGEFAULT_GUEST_HELLO_TIMEOUT_MS 10000
#endif

/* Regions that a process can have at the same time. */
#ifndef PAGEFAULT_GUEST_REGIONS_MAX
#define PAGEFAULT_GUEST_REGIONS_MAX 128
#endif

/* Flags of pagefault_guest_page(): what the memory is. One of them. */
enum {
  PAGEFAULT_GUEST_OTHER = 0,   /* private anonymous memory of whatever origin */
  PAGEFAULT_GUEST_MMAP = 1,    /* mmap(MAP_PRIVATE | MAP_ANONYMOUS) */
  PAGEFAULT_GUEST_MALLOC = 2,  /* whole pages of one allocation, e.g. of aligned_alloc(page size, ...) */
  PAGEFAULT_GUEST_BRK = 3,     /* whole pages from sbrk() */
  PAGEFAULT_GUEST_SHM = 4,     /* MAP_SHARED over a memfd, shm_open() or nothing; what other processes have of it is dropped as well */
  PAGEFAULT_GUEST_HUGETLB = 5, /* MAP_HUGETLB; add the size as for mmap, 21 << PAGEFAULT_GUEST_HUGE_SHIFT, if it is not the default one */

  PAGEFAULT_GUEST_SHARED = 1 << 8,   /* the memory is MAP_SHARED: with HUGETLB and OTHER; SHM says it already */
  PAGEFAULT_GUEST_HUGE_SHIFT = 26
};

/* Who said no, for pagefault_guest_page_at(). */
typedef enum pagefault_guest_stage {
  PAGEFAULT_GUEST_AT_ARGUMENTS = 0, /* this function: a wrong argument, or no connection */
  PAGEFAULT_GUEST_AT_USERFAULTFD,   /* userfaultfd(2): EPERM where it is forbidden (containers), ENOSYS where there is none */
  PAGEFAULT_GUEST_AT_MADVISE,       /* madvise(2) on the memory */
  PAGEFAULT_GUEST_AT_REGISTER,      /* UFFDIO_REGISTER on the memory */
  PAGEFAULT_GUEST_AT_SEND,          /* the connection */
  PAGEFAULT_GUEST_AT_PAGER          /* the pager refused the region, or did not answer */
} pagefault_guest_stage;

/* --- the inside of a pagefault_guest: not for you ------------------------------------------------------------------------------- */

#define PFG_QUEUE 256
#define PFG_MESSAGE 64

/*
 *   FREE    -> PENDING   [pfg_take_slot]
 *   PENDING -> ACTIVE    [pfg_on_ack: the pager serves it]
 *   PENDING -> REFUSED   [pfg_on_ack, pfg_gone]
 *   ACTIVE  -> ENDING    [pagefault_guest_unpage]
 *   PENDING, REFUSED, ENDING -> FREE   [pfg_free_slot]
 */
enum { PFG_FREE, PFG_PENDING, PFG_ACTIVE, PFG_REFUSED, PFG_ENDING };

typedef struct pfg_region {
  uint64_t address, length;
  uint64_t page; /* bytes of the kernel's page of this memory */
  uint32_t flags, serial;
  int state, status; /* status: errno of the refusal */
  int uffd;          /* ours; kept open, or missing pages would read zero when the pager closes its own */
  int user_mode_only;
  int dropping; /* the second thread takes pages of it away right now */
} pfg_region;

typedef struct pfg_drop {
  uint64_t address, length;
  uint32_t serial;
  uint32_t region; /* serial of the region it is meant for: another one may lie there when its turn comes. 0: none */
} pfg_drop;

typedef struct pagefault_guest {
  pthread_mutex_t lock; /* all below, except where it says otherwise */
  pthread_cond_t changed;
  pthread_t reader, dropper;
  pid_t pid;    /* who connected; atomic: changed once, by disconnect. 0: nobody */
  int fd;       /* the connection; never changes until disconnect */
  int gone;     /* end of file, or something that is not of the protocol */
  int stopping; /* disconnect */
  int active;   /* regions ACTIVE or ENDING; atomic: the reader looks at it when it may not wait for the lock */
  uint32_t serial;
  uint32_t hello_flags, wished_page_size, ack_timeout_ms; /* of HELLO; never change */
  uint64_t store_length;                                  /* likewise */
  size_t first_drop, drops;
  pfg_drop queue[PFG_QUEUE];
  pfg_region regions[PAGEFAULT_GUEST_REGIONS_MAX];
} pagefault_guest;

/* --- what you call -------------------------------------------------------------------------------------------------------------- */

/*
 * Connects to the pager that started this process; call it once, early (it changes the environment). `g` is initialised by it.
 *
 *   -ENOENT           the environment variable is not there: no pager started this process. Use memory of your own
 *   -ETIMEDOUT        the pager did not say hello within ten seconds
 *   -ECONNRESET       it went away before it did
 *   -EPROTO           what it said is not a hello
 *   -EPROTONOSUPPORT  it speaks a version that this header does not know
 *   -EINVAL, -EBADF, -ENOTSOCK   the variable is not a number, or not that of a connected Unix socket
 *   -EAGAIN, -ENOMEM  no thread can be started
 *   -EISCONN          `g` is connected already
 *
 * After a failure the variable is gone all the same, and the connection is closed.
 */
static inline int pagefault_guest_connect(pagefault_guest *g);

/* Bytes that the pager's store has. 0: it does not know, or there is no connection. */
static inline uint64_t pagefault_guest_store_length(const pagefault_guest *g);

/* Bytes of a page as the pager brings them: the system's page size, or a larger power of two that the pager wishes. */
static inline size_t pagefault_guest_page_size(const pagefault_guest *g);

/*
 * Makes `len` bytes of memory (rounded up to whole pages) that stand for the store from `store_offset` on, and writes the address to
 * *addr. Readable and writable; whether writes reach the store is the pager's matter. Errors as for pagefault_guest_page(); then
 * nothing is mapped and *addr is NULL.
 */
static inline int pagefault_guest_map(pagefault_guest *g, size_t len, uint64_t store_offset, void **addr);

/*
 * Hands over memory that you have: its old contents are dropped, and from the return on every page comes from the store. `addr` and
 * `len` are multiples of the page size of that memory. Until it returns nobody may touch the memory. The memory must not hold `g`, nor
 * the stack of a thread, nor parts of an allocation that something else uses too.
 *
 *   -ENOTCONN    there is no connection. -ECHILD: it is that of the process that this one was forked from
 *   -EINVAL      not page aligned, empty, past the end of the address space, unknown flags, it holds `g` or the caller's stack, or it
 *                is memory that Linux cannot page (file mappings, locked memory)
 *   -EBUSY       the memory is paged already, or somebody touches it meanwhile
 *   -ENOSPC      too many regions
 *   -EPERM, -ENOSYS   userfaultfd(2) is forbidden (as containers do by default) or not there
 *   -EMFILE, -ENFILE, -ENOMEM   as usual; ENOMEM also for the limit on mappings (vm.max_map_count)
 *   -EPIPE       the pager is gone
 *   -ETIMEDOUT   it does not answer
 *   otherwise    the errno with which the pager refused the region
 *
 * After a failure nothing is registered and no descriptor is left. If it came from the pager (EPIPE, ETIMEDOUT, a refusal), the old
 * contents were dropped by then, and the memory is inaccessible (PROT_NONE), because zeroes must not be taken for what was there:
 * munmap() it, or mprotect() it to use (or free()) it as empty memory. After other failures the memory is as it was, except that it
 * may have lost transparent huge pages; where -EBUSY or -ENOMEM came late it is inaccessible too.
 */
static inline int pagefault_guest_page(pagefault_guest *g, void *addr, size_t len, uint64_t store_offset, unsigned flags);

/* The same, and says who refused. `stage` may be NULL. */
static inline int pagefault_guest_page_at(pagefault_guest *g, void *addr, size_t len, uint64_t store_offset, unsigned flags,
                                          pagefault_guest_stage *stage);

/*
 * Ends the region that begins at `addr`; what was written to it and not taken over by the pager is lost. The memory is unmapped; that of
 * MALLOC and BRK stays yours and reads zero. Waits until the pager has heard of it. -ENOENT: no region begins there.
 */
static inline int pagefault_guest_unpage(pagefault_guest *g, void *addr);

/* 1: a system call that meets a missing page of the region fails with EFAULT. 0: it waits as a touch does. -ENOENT: there is no such
 * region. */
static inline int pagefault_guest_user_mode_only(pagefault_guest *g, const void *addr);

/* Ends the connection and the threads. -EBUSY: there are regions. There is no connecting again. */
static inline int pagefault_guest_disconnect(pagefault_guest *g);

/* --- the kernel's definitions, in our own words (the headers of a build machine are often older than the kernel) ---------------- */

#ifndef SYS_userfaultfd
#if defined(__x86_64__)
#define SYS_userfaultfd 323
#elif defined(__aarch64__)
#define SYS_userfaultfd 282
#else
#error "userfaultfd(2) has no number for this architecture in <sys/syscall.h>"
#endif
#endif

#define PFG_MAGIC 0x31474650u
enum { PFG_HELLO = 1, PFG_REGION, PFG_ACK, PFG_DROP, PFG_DROPPED };
#define PFG_HELLO_WRITE_PROTECT 1u
#define PFG_REGION_USER_MODE_ONLY 1u
#define PFG_REGION_SHARED 2u
#define PFG_REGION_WRITE_PROTECT 4u

#define PFG_POLLRDHUP 0x2000
#define PFG_USER_MODE_ONLY 1 /* 5.11 */

#define PFG_FEATURE_WP (1ULL << 0)             /* 5.7 */
#define PFG_FEATURE_REMAP (1ULL << 2)          /* 4.11, as the next two */
#define PFG_FEATURE_REMOVE (1ULL << 3)
#define PFG_FEATURE_UNMAP (1ULL << 6)
#define PFG_FEATURE_THREAD_ID (1ULL << 8)      /* 4.14 */
#define PFG_FEATURE_EXACT_ADDRESS (1ULL << 11) /* 5.18 */
#define PFG_FEATURE_WP_SHARED (1ULL << 12)     /* 5.19 */
#define PFG_FEATURE_WP_UNPOPULATED (1ULL << 13) /* 6.4 */

struct pfg_uffdio_api {
  uint64_t api, features, ioctls;
};
struct pfg_uffdio_range {
  uint64_t start, len;
};
struct pfg_uffdio_register {
  struct pfg_uffdio_range range;
  uint64_t mode, ioctls;
};

#define PFG_UFFDIO_API _IOWR(0xAA, 0x3F, struct pfg_uffdio_api)
#define PFG_UFFDIO_REGISTER _IOWR(0xAA, 0x00, struct pfg_uffdio_register)
#define PFG_UFFDIO_UNREGISTER _IOR(0xAA, 0x01, struct pfg_uffdio_range)
#define PFG_USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) /* 6.1 */

/* --- messages: 64 bytes, little-endian ------------------------------------------------------------------------------------------ */

static inline void pfg_put32(uint8_t *at, uint32_t value) {
  for (int i = 0; i < 4; i++) {
    at[i] = (uint8_t)(value >> (8 * i));
  }
}

static inline void pfg_put64(uint8_t *at, uint64_t value) {
  pfg_put32(at, (uint32_t)value);
  pfg_put32(at + 4, (uint32_t)(value >> 32));
}

static inline uint32_t pfg_get32(const uint8_t *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline uint64_t pfg_get64(const uint8_t *at) { return pfg_get32(at) | (uint64_t)pfg_get32(at + 4) << 32; }

static inline uint64_t pfg_now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Waits for events on a descriptor until the deadline (0: none). Returns them, 0 at the deadline, or -errno. */
static inline int pfg_poll(int fd, int events, uint64_t deadline_ms) {
  for (;;) {
    uint64_t now = pfg_now_ms();
    int left = deadline_ms == 0 ? -1 : deadline_ms <= now ? 0 : deadline_ms - now > 60000 ? 60000 : (int)(deadline_ms - now);
    struct pollfd entry;
    entry.fd = fd;
    entry.events = (short)events;
    entry.revents = 0;
    int ready = poll(&entry, 1, left);
    if (ready > 0) {
      return entry.revents;
    }
    if (ready < 0 && errno != EINTR) {
      return -errno;
    }
    if (ready == 0 && (deadline_ms == 0 || pfg_now_ms() >= deadline_ms)) {
      return 0;
    }
  }
}

/* Sends a message, with a descriptor if `passed` is not -1. A Unix socket takes 64 bytes whole or not at all. */
static inline int pfg_send(int fd, const uint8_t *message, int passed, uint64_t deadline_ms) {
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
  } control;
  struct iovec part;
  struct msghdr packet;
  memset(&packet, 0, sizeof packet);
  memset(&control, 0, sizeof control);
  part.iov_base = (void *)(uintptr_t)message;
  part.iov_len = PFG_MESSAGE;
  packet.msg_iov = &part;
  packet.msg_iovlen = 1;
  if (passed >= 0) {
    packet.msg_control = control.bytes;
    packet.msg_controllen = sizeof control.bytes;
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof passed);
    memcpy(CMSG_DATA(&control.header), &passed, sizeof passed);
  }
  for (;;) {
    ssize_t sent = sendmsg(fd, &packet, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == PFG_MESSAGE) {
      return 0;
    }
    if (sent >= 0) {
      return -EPROTO;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      int events = pfg_poll(fd, POLLOUT, deadline_ms);
      if (events <= 0) {
        return events == 0 ? -ETIMEDOUT : events;
      }
    } else if (errno != EINTR) {
      return errno == ECONNRESET || errno == ENOTCONN ? -EPIPE : -errno;
    }
  }
}

/* Reads what is there of a message behind the *have bytes of it. 0, or -ECONNRESET at the end of the stream, or -errno. */
static inline int pfg_receive(int fd, uint8_t *message, size_t *have) {
  ssize_t got = recv(fd, message + *have, PFG_MESSAGE - *have, MSG_DONTWAIT);
  if (got > 0) {
    *have += (size_t)got;
    return 0;
  }
  if (got == 0) {
    return -ECONNRESET;
  }
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -errno;
}

/* --- userfaultfd(2) ------------------------------------------------------------------------------------------------------------- */

/* A new descriptor, from the device node (device >= 0) or by the system call, or -errno. */
static inline int pfg_uffd_new(int device, int flags) {
  flags |= O_CLOEXEC | O_NONBLOCK;
  int fd = device >= 0 ? ioctl(device, PFG_USERFAULTFD_IOC_NEW, flags) : (int)syscall(SYS_userfaultfd, flags);
  return fd >= 0 ? fd : -errno;
}

/* A descriptor with those of the wanted features that the kernel has, or -errno. The first one only learns which these are: a
 * second handshake on the same descriptor is refused. */
static inline int pfg_uffd_make(int device, int flags, uint64_t wanted, uint64_t *granted) {
  struct pfg_uffdio_api api;
  uint64_t features = 0;
  for (int turn = 0;; turn++) {
    int fd = pfg_uffd_new(device, flags);
    if (fd < 0) {
      return fd;
    }
    api.api = 0xAA;
    api.features = features;
    api.ioctls = 0;
    if (ioctl(fd, PFG_UFFDIO_API, &api) != 0) {
      int err = -errno;
      close(fd);
      return err;
    }
    if (turn == 1) {
      *granted = features;
      return fd;
    }
    features = api.features & wanted;
    close(fd);
  }
}

/* The best descriptor that this process may have: one that serves faults of the kernel too, by the device node or the system call; else
 * one for user mode only. */
static inline int pfg_uffd_open(uint64_t wanted, uint64_t *granted, int *user_mode_only) {
  *user_mode_only = 0;
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC); /* 6.1 */
  if (device >= 0) {
    int fd = pfg_uffd_make(device, 0, wanted, granted);
    close(device);
    if (fd >= 0) {
      return fd;
    }
  }
  int err = pfg_uffd_make(-1, 0, wanted, granted);
  if (err >= 0 || err == -ENOSYS) {
    return err;
  }
  *user_mode_only = 1;
  int fd = pfg_uffd_make(-1, PFG_USER_MODE_ONLY, wanted, granted);
  return fd == -EINVAL ? err : fd; /* EINVAL: before 5.11 there was no such flag */
}

static inline int pfg_unregister(int uffd, uint64_t address, uint64_t length) {
  struct pfg_uffdio_range range;
  range.start = address;
  range.len = length;
  return ioctl(uffd, PFG_UFFDIO_UNREGISTER, &range) == 0 ? 0 : -errno;
}

/* Registers missing pages, and write protection too where *write_protect is set and the kernel can (else it is cleared). */
static inline int pfg_register(int uffd, uint64_t address, uint64_t length, int *write_protect, uint64_t *ioctls) {
  for (;;) {
    struct pfg_uffdio_register range;
    range.range.start = address;
    range.range.len = length;
    range.mode = *write_protect ? 3 : 1;
    range.ioctls = 0;
    if (ioctl(uffd, PFG_UFFDIO_REGISTER, &range) == 0) {
      *ioctls = range.ioctls;
      return 0;
    }
    if (errno != EINVAL || !*write_protect) {
      return -errno;
    }
    *write_protect = 0;
  }
}

/* --- the end -------------------------------------------------------------------------------------------------------------------- */

/* The pager is gone and some memory is only with it: says so and kills the process, whatever its threads do. */
static inline void pfg_die(void) {
  char text[160];
  int len = snprintf(text, sizeof text,
                     "pagefault: the pager of process %d is gone; memory that is missing cannot be had any more, so the process ends\n",
                     (int)getpid());
  if (pfg_poll(STDERR_FILENO, POLLOUT, pfg_now_ms() + 100) > 0) { /* a full pipe must not keep us */
    ssize_t ignored = write(STDERR_FILENO, text, (size_t)len);
    (void)ignored;
  }
  kill(getpid(), SIGKILL);
  _exit(128 + SIGKILL); /* the first process of a container cannot kill itself */
}

/* The connection is of no use any more. Nobody waits for the lock before it is known that the process may live. */
static inline void pfg_gone(pagefault_guest *g) {
  if (__atomic_load_n(&g->active, __ATOMIC_ACQUIRE) > 0) {
    pfg_die();
  }
  shutdown(g->fd, SHUT_RDWR);
  pthread_mutex_lock(&g->lock);
  g->gone = 1;
  for (int i = 0; i < PAGEFAULT_GUEST_REGIONS_MAX; i++) {
    if (g->regions[i].state == PFG_PENDING) {
      g->regions[i].state = PFG_REFUSED;
      g->regions[i].status = EPIPE;
    }
  }
  pthread_cond_broadcast(&g->changed);
  pthread_mutex_unlock(&g->lock);
}

/* --- the two threads ------------------------------------------------------------------------------------------------------------ */

static inline void pfg_on_ack(pagefault_guest *g, const uint8_t *message) {
  uint32_t serial = pfg_get32(message + 60), status = pfg_get32(message + 16);
  pthread_mutex_lock(&g->lock);
  for (int i = 0; i < PAGEFAULT_GUEST_REGIONS_MAX; i++) {
    pfg_region *region = &g->regions[i];
    if (region->state == PFG_PENDING && region->serial == serial && region->address == pfg_get64(message + 8)) {
      region->state = status == 0 ? PFG_ACTIVE : PFG_REFUSED;
      region->status = status > 4095 ? EPROTO : (int)status;
      if (status == 0) {
        __atomic_add_fetch(&g->active, 1, __ATOMIC_ACQ_REL);
      }
      pthread_cond_broadcast(&g->changed);
    }
  }
  pthread_mutex_unlock(&g->lock);
}

/* The region that has all of the range: one that is served, else one that is ending; NULL if none has. With the lock. */
static inline pfg_region *pfg_region_of(pagefault_guest *g, uint64_t address, uint64_t length) {
  pfg_region *ending = NULL;
  for (int i = 0; i < PAGEFAULT_GUEST_REGIONS_MAX; i++) {
    pfg_region *region = &g->regions[i];
    if ((region->state == PFG_ACTIVE || region->state == PFG_ENDING) && address >= region->address && length <= region->length &&
        address - region->address <= region->length - length) {
      if (region->state == PFG_ACTIVE) {
        return region;
      }
      ending = region;
    }
  }
  return ending;
}

/* Leaves it to the other thread: dropping waits for the pager, and this one must notice if the pager dies meanwhile. Which region is meant
 * is known now: one that is made later in the same place is answered for behind this message. */
static inline int pfg_on_drop(pagefault_guest *g, const uint8_t *message) {
  for (;;) {
    pthread_mutex_lock(&g->lock);
    int room = g->drops < PFG_QUEUE;
    if (room) {
      pfg_drop *drop = &g->queue[(g->first_drop + g->drops++) % PFG_QUEUE];
      drop->address = pfg_get64(message + 8);
      drop->length = pfg_get64(message + 16);
      drop->serial = pfg_get32(message + 60);
      const pfg_region *region = pfg_region_of(g, drop->address, drop->length);
      drop->region = region == NULL ? 0 : region->serial;
      pthread_cond_broadcast(&g->changed);
    }
    pthread_mutex_unlock(&g->lock);
    if (room) {
      return 0;
    }
    if (pfg_poll(g->fd, PFG_POLLRDHUP, pfg_now_ms() + 5) != 0) {
      return -EPIPE;
    }
  }
}

static inline int pfg_on_message(pagefault_guest *g, const uint8_t *message) {
  if (pfg_get32(message) != PFG_MAGIC) {
    return -EPROTO;
  }
  switch (pfg_get32(message + 4)) {
    case PFG_ACK:
      pfg_on_ack(g, message);
      return 0;
    case PFG_DROP:
      return pfg_on_drop(g, message);
    default: /* of a later version: not for us */
      return 0;
  }
}

static inline void *pfg_read_loop(void *data) {
  pagefault_guest *g = (pagefault_guest *)data;
  uint8_t message[PFG_MESSAGE];
  size_t have = 0;
  int err = 0;
  while (err == 0) {
    int events = pfg_poll(g->fd, POLLIN | PFG_POLLRDHUP, 0);
    err = events < 0 ? events : pfg_receive(g->fd, message, &have);
    if (err == 0 && have == PFG_MESSAGE) {
      err = pfg_on_message(g, message);
      have = 0;
    }
  }
  pfg_gone(g);
  return NULL;
}

/* The region, marked as being dropped from. While it is ending it is waited for: it may stay after all, and then its pages go, or it goes
 * with them. NULL: it has gone. With the lock. */
static inline pfg_region *pfg_begin_drop(pagefault_guest *g, const pfg_drop *drop) {
  for (;;) {
    pfg_region *region = pfg_region_of(g, drop->address, drop->length);
    if (region == NULL || region->serial != drop->region) {
      return NULL;
    }
    if (region->state == PFG_ACTIVE) {
      region->dropping = 1;
      return region;
    }
    pthread_cond_wait(&g->changed, &g->lock);
  }
}

static inline int pfg_is_shared(unsigned flags) { return (flags & PAGEFAULT_GUEST_SHARED) != 0 || (flags & 0xff) == PAGEFAULT_GUEST_SHM; }

/* 0 or -errno. On a region of the pager it waits until the pager has read of it. */
static inline int pfg_drop_pages(uint64_t address, uint64_t length, unsigned flags) {
  int advice = pfg_is_shared(flags) ? MADV_REMOVE : MADV_DONTNEED;
  return madvise((void *)(uintptr_t)address, (size_t)length, advice) == 0 ? 0 : -errno;
}

/* Page by page of the kernel's, so that the pager hears of each exactly once, and of those twice that the program has given up by itself
 * meanwhile. Of a longer range it hears again where mprotect() divides the mapping at that moment. */
static inline int pfg_drop_each(const pfg_region *region, const pfg_drop *drop) {
  int err = 0;
  for (uint64_t at = 0; at < drop->length && err == 0; at += region->page) {
    err = pfg_drop_pages(drop->address + at, region->page, region->flags);
  }
  return err;
}

static inline void *pfg_drop_loop(void *data) {
  pagefault_guest *g = (pagefault_guest *)data;
  pthread_mutex_lock(&g->lock);
  for (;;) {
    while (g->drops == 0 && !g->stopping && !g->gone) {
      pthread_cond_wait(&g->changed, &g->lock);
    }
    if (g->stopping || g->gone) {
      break;
    }
    pfg_drop drop = g->queue[g->first_drop];
    g->first_drop = (g->first_drop + 1) % PFG_QUEUE;
    g->drops--;
    pfg_region *region = pfg_begin_drop(g, &drop);
    pthread_mutex_unlock(&g->lock);

    int err = region != NULL ? pfg_drop_each(region, &drop) : drop.region != 0 ? 0 : -EINVAL;

    pthread_mutex_lock(&g->lock);
    if (region != NULL) {
      region->dropping = 0;
      pthread_cond_broadcast(&g->changed);
    }
    pthread_mutex_unlock(&g->lock);
    uint8_t answer[PFG_MESSAGE] = {0};
    pfg_put32(answer, PFG_MAGIC);
    pfg_put32(answer + 4, PFG_DROPPED);
    pfg_put64(answer + 8, drop.address);
    pfg_put64(answer + 16, drop.length);
    pfg_put32(answer + 24, (uint32_t)-err);
    pfg_put32(answer + 60, drop.serial);
    if (pfg_send(g->fd, answer, -1, 0) != 0) {
      shutdown(g->fd, SHUT_RDWR); /* the other thread sees to the rest */
    }
    pthread_mutex_lock(&g->lock);
  }
  pthread_mutex_unlock(&g->lock);
  return NULL;
}

/* --- connecting ----------------------------------------------------------------------------------------------------------------- */

static pagefault_guest *pfg_connected; /* for the handler of fork */

/* In a process that was forked from this one: it is not paged. Exec would close them; it may not come to that. */
static inline void pfg_forked(void) {
  pagefault_guest *g = pfg_connected;
  if (g == NULL || g->pid == 0) {
    return;
  }
  close(g->fd);
  for (int i = 0; i < PAGEFAULT_GUEST_REGIONS_MAX; i++) {
    if (g->regions[i].state != PFG_FREE && g->regions[i].uffd >= 0) {
      close(g->regions[i].uffd);
    }
  }
  pfg_connected = NULL;
}

/* Takes the descriptor out of the environment. It, or -errno. */
static inline int pfg_inherited(void) {
  const char *text = getenv(PAGEFAULT_GUEST_VARIABLE);
  if (text == NULL) {
    return -ENOENT;
  }
  char *end;
  errno = 0;
  long number = strtol(text, &end, 10);
  int wrong = errno != 0 || end == text || *end != '\0' || number < 0 || number > 0x7fffffff;
  unsetenv(PAGEFAULT_GUEST_VARIABLE);
  if (wrong) {
    return -EINVAL;
  }
  int domain = 0, type = 0;
  socklen_t size = sizeof(int);
  if (getsockopt((int)number, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 ||
      getsockopt((int)number, SOL_SOCKET, SO_TYPE, &type, &size) != 0) {
    return -errno;
  }
  if (domain != AF_UNIX || type != SOCK_STREAM) {
    return -ENOTSOCK;
  }
  return fcntl((int)number, F_SETFD, FD_CLOEXEC) == 0 ? (int)number : -errno;
}

static inline int pfg_read_hello(pagefault_guest *g) {
  uint64_t deadline = pfg_now_ms() + PAGEFAULT_GUEST_HELLO_TIMEOUT_MS;
  uint8_t message[PFG_MESSAGE];
  for (size_t have = 0; have < PFG_MESSAGE;) {
    int events = pfg_poll(g->fd, POLLIN, deadline);
    int err = events <= 0 ? (events == 0 ? -ETIMEDOUT : events) : pfg_receive(g->fd, message, &have);
    if (err != 0) {
      return err;
    }
  }
  if (pfg_get32(message) != PFG_MAGIC || pfg_get32(message + 4) != PFG_HELLO) {
    return -EPROTO;
  }
  if (pfg_get32(message + 8) != 1) {
    return -EPROTONOSUPPORT;
  }
  g->hello_flags = pfg_get32(message + 12);
  g->store_length = pfg_get64(message + 16);
  g->wished_page_size = pfg_get32(message + 24);
  g->ack_timeout_ms = pfg_get32(message + 28);
  if (g->ack_timeout_ms == 0) {
    g->ack_timeout_ms = 30000;
  }
  return (g->wished_page_size & (g->wished_page_size - 1)) == 0 ? 0 : -EPROTO;
}

static inline int pfg_start_thread(pthread_t *thread, void *(*loop)(void *), pagefault_guest *g) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) {
    return -ENOMEM;
  }
  pthread_attr_setstacksize(&attributes, 256 * 1024); /* left alone where libc wants more */
  int err = pthread_create(thread, &attributes, loop, g);
  pthread_attr_destroy(&attributes);
  return -err;
}

/* Both threads, with every signal blocked, or none. */
static inline int pfg_start(pagefault_guest *g) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int err = pfg_start_thread(&g->dropper, pfg_drop_loop, g);
  if (err == 0) {
    err = pfg_start_thread(&g->reader, pfg_read_loop, g);
    if (err != 0) {
      pthread_mutex_lock(&g->lock);
      g->stopping = 1;
      pthread_cond_broadcast(&g->changed);
      pthread_mutex_unlock(&g->lock);
      pthread_join(g->dropper, NULL);
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return err;
}

static inline int pagefault_guest_connect(pagefault_guest *g) {
  if (pfg_connected == g && g->pid == getpid()) {
    return -EISCONN;
  }
  memset(g, 0, sizeof *g);
  for (int i = 0; i < PAGEFAULT_GUEST_REGIONS_MAX; i++) {
    g->regions[i].uffd = -1;
  }
  g->fd = pfg_inherited();
  if (g->fd < 0) {
    return g->fd;
  }
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_mutex_init(&g->lock, NULL);
  pthread_cond_init(&g->changed, &attributes);
  pthread_condattr_destroy(&attributes);
  int err = pfg_read_hello(g);
  if (err == 0) {
    pfg_connected = g;
    err = -pthread_atfork(NULL, NULL, pfg_forked);
  }
  if (err == 0) {
    err = pfg_start(g);
  }
  if (err != 0) {
    pfg_connected = NULL;
    close(g->fd);
    g->fd = -1;
    return err;
  }
  g->pid = getpid();
  return 0;
}

static inline uint64_t pagefault_guest_store_length(const pagefault_guest *g) { return g->store_length; }

static inline size_t pagefault_guest_page_size(const pagefault_guest *g) {
  size_t system_page = (size_t)sysconf(_SC_PAGESIZE);
  return g->wished_page_size > system_page ? g->wished_page_size : system_page;
}

static inline int pfg_check_connected(const pagefault_guest *g) {
  pid_t pid = __atomic_load_n(&g->pid, __ATOMIC_RELAXED); /* another thread may disconnect */
  if (pid == 0) {
    return -ENOTCONN;
  }
  return pid == getpid() ? 0 : -ECHILD;
}

/* --- handing over memory -------------------------------------------------------------------------------------------------------- */

/* Bytes of the system's default huge page, 0 if there are none. */
static inline uint64_t pfg_default_huge_page(void) {
  char text[4096];
  unsigned long long kib = 0;
  int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return 0;
  }
  ssize_t len = read(fd, text, sizeof text - 1);
  close(fd);
  text[len > 0 ? len : 0] = '\0';
  const char *at = strstr(text, "Hugepagesize:");
  return at != NULL && sscanf(at, "Hugepagesize: %llu", &kib) == 1 ? (uint64_t)kib << 10 : 0;
}

/* Bytes of a page of that memory as the kernel has it; 0 for flags that make no sense. */
static inline uint64_t pfg_kernel_page_size(unsigned flags) {
  unsigned shift = flags >> PAGEFAULT_GUEST_HUGE_SHIFT, kind = flags & 0xff;
  unsigned rest = flags & ~(0x3fu << PAGEFAULT_GUEST_HUGE_SHIFT) & ~(unsigned)PAGEFAULT_GUEST_SHARED;
  if (rest != kind || kind > PAGEFAULT_GUEST_HUGETLB || (shift != 0 && kind != PAGEFAULT_GUEST_HUGETLB)) {
    return 0;
  }
  if (kind != PAGEFAULT_GUEST_HUGETLB) {
    return (uint64_t)sysconf(_SC_PAGESIZE);
  }
  return shift == 0 ? pfg_default_huge_page() : 1ULL << shift;
}

static inline int pfg_holds(uint64_t address, uint64_t length, const void *start, size_t size) {
  uint64_t from = (uint64_t)(uintptr_t)start;
  return from < address + length && address < from + size;
}

static inline int pfg_check_range(const pagefault_guest *g, uint64_t address, uint64_t length, uint64_t store_offset, uint64_t page) {
  char here = 0;
  if (page == 0 || length == 0 || address % page != 0 || length % page != 0 || address + length < address ||
      store_offset + length < store_offset) {
    return -EINVAL;
  }
  return pfg_holds(address, length, g, sizeof *g) || pfg_holds(address, length, &here, 1) ? -EINVAL : 0;
}

/* A place in the table, PENDING with a serial of its own; or -errno. */
static inline int pfg_take_slot(pagefault_guest *g, uint64_t address, uint64_t length, unsigned flags, pfg_region **out) {
  int err = -ENOSPC;
  pthread_mutex_lock(&g->lock);
  for (int i = 0; i < PAGEFAULT_GUEST_REGIONS_MAX; i++) {
    pfg_region *region = &g->regions[i];
    int taken = region->state != PFG_FREE && region->state != PFG_ENDING; /* what is just unmapped may be mapped again already */
    if (taken && address < region->address + region->length && region->address < address + length) {
      err = -EBUSY;
      break;
    }
    if (region->state == PFG_FREE && err == -ENOSPC) {
      *out = region;
      err = 0;
    }
  }
  if (err == 0 && g->gone) {
    err = -EPIPE;
  }
  if (err == 0) {
    pfg_region *region = *out;
    memset(region, 0, sizeof *region);
    region->address = address;
    region->length = length;
    region->flags = flags;
    region->serial = ++g->serial;
    region->state = PFG_PENDING;
    region->uffd = -1;
  }
  pthread_mutex_unlock(&g->lock);
  return err;
}

static inline void pfg_free_slot(pagefault_guest *g, pfg_region *region) {
  pthread_mutex_lock(&g->lock);
  region->state = PFG_FREE;
  region->uffd = -1;
  pthread_mutex_unlock(&g->lock);
}

/* 1 when no page of the range is there, 0 when one is, or -errno. */
static inline int pfg_is_empty(uint64_t address, uint64_t length) {
  unsigned char pages[4096];
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  for (uint64_t at = 0; at < length;) {
    size_t part = length - at < sizeof pages * page ? (size_t)(length - at) : sizeof pages * page;
    if (mincore((void *)(uintptr_t)(address + at), part, pages) != 0) {
      return -errno;
    }
    for (size_t i = 0; i < part / page; i++) {
      if ((pages[i] & 1) != 0) {
        return 0;
      }
    }
    at += part;
  }
  return 1;
}

/* How far the memory has come on its way to the pager; undone backwards by pfg_undo. */
typedef struct pfg_progress {
  int not_inherited, registered, emptied;
} pfg_progress;

/* Nothing of the range can be touched before it is unregistered: a thread that waits there would go on with zeroes. */
static inline void pfg_undo(const pfg_region *region, const pfg_progress *progress) {
  void *addr = (void *)(uintptr_t)region->address;
  if (progress->emptied) {
    mprotect(addr, (size_t)region->length, PROT_NONE);
  }
  if (progress->registered) {
    pfg_unregister(region->uffd, region->address, region->length);
  }
  if (progress->not_inherited) {
    madvise(addr, (size_t)region->length, MADV_DOFORK);
  }
  if (region->uffd >= 0) {
    close(region->uffd);
  }
}

/* Empties the memory and registers it. It is registered once before it is emptied, so that memory that cannot be paged keeps its contents;
 * not emptied afterwards, because a drop in registered memory waits for the pager, which knows nothing of it yet. */
static inline int pfg_prepare(pfg_region *region, pfg_progress *progress, int *write_protect, uint64_t *ioctls,
                              pagefault_guest_stage *stage) {
  void *addr = (void *)(uintptr_t)region->address;
  size_t len = (size_t)region->length;
  *stage = PAGEFAULT_GUEST_AT_REGISTER;
  int err = pfg_register(region->uffd, region->address, region->length, write_protect, ioctls);
  if (err != 0) {
    return err;
  }
  pfg_unregister(region->uffd, region->address, region->length);
  *stage = PAGEFAULT_GUEST_AT_MADVISE;
  if ((region->flags & 0xff) != PAGEFAULT_GUEST_HUGETLB) {
    madvise(addr, len, MADV_NOHUGEPAGE); /* refused by kernels that have none anyway */
  }
  if (madvise(addr, len, MADV_DONTFORK) != 0) {
    return -errno;
  }
  progress->not_inherited = 1;
  err = pfg_drop_pages(region->address, region->length, region->flags);
  if (err != 0) {
    return err;
  }
  progress->emptied = 1;
  *stage = PAGEFAULT_GUEST_AT_REGISTER;
  err = pfg_register(region->uffd, region->address, region->length, write_protect, ioctls);
  if (err != 0) {
    return err;
  }
  progress->registered = 1;
  int empty = pfg_is_empty(region->address, region->length);
  return empty == 1 ? 0 : empty == 0 ? -EBUSY : empty;
}

/* Waits for the answer. 0: the region is ACTIVE. */
static inline int pfg_wait_for_ack(pagefault_guest *g, pfg_region *region, uint64_t deadline_ms) {
  struct timespec deadline;
  deadline.tv_sec = (time_t)(deadline_ms / 1000);
  deadline.tv_nsec = (long)(deadline_ms % 1000) * 1000000;
  int late = 0;
  pthread_mutex_lock(&g->lock);
  while (region->state == PFG_PENDING && late == 0) {
    late = pthread_cond_timedwait(&g->changed, &g->lock, &deadline);
  }
  int err = region->state == PFG_ACTIVE ? 0 : region->state == PFG_PENDING ? -ETIMEDOUT : -region->status;
  if (err != 0) {
    region->state = PFG_REFUSED; /* an answer that comes now is too late */
  }
  pthread_mutex_unlock(&g->lock);
  return err;
}

static inline uint64_t pfg_wanted_features(const pagefault_guest *g) {
  uint64_t wanted = PFG_FEATURE_REMAP | PFG_FEATURE_REMOVE | PFG_FEATURE_UNMAP | PFG_FEATURE_THREAD_ID | PFG_FEATURE_EXACT_ADDRESS;
  if ((g->hello_flags & PFG_HELLO_WRITE_PROTECT) != 0) {
    wanted |= PFG_FEATURE_WP | PFG_FEATURE_WP_SHARED | PFG_FEATURE_WP_UNPOPULATED;
  }
  return wanted;
}

/* The page size of the region for the pager: what it wished for, if the memory and its place in the store allow it. */
static inline uint64_t pfg_region_page_size(const pagefault_guest *g, const pfg_region *region, uint64_t store_offset) {
  uint64_t wished = g->wished_page_size, page = pfg_kernel_page_size(region->flags);
  int fits = (region->flags & 0xff) != PAGEFAULT_GUEST_HUGETLB && wished > page && region->address % wished == 0 &&
             region->length % wished == 0 && store_offset % wished == 0;
  return fits ? wished : page;
}

/* From the open descriptor to the pager's answer. */
static inline int pfg_hand_over(pagefault_guest *g, pfg_region *region, pfg_progress *progress, uint64_t features, uint64_t store_offset,
                                pagefault_guest_stage *stage) {
  int shared = pfg_is_shared(region->flags);
  int write_protect = (features & PFG_FEATURE_WP) != 0;
  uint64_t ioctls = 0;
  int err = pfg_prepare(region, progress, &write_protect, &ioctls, stage);
  if (err != 0) {
    return err;
  }
  uint32_t flags = (region->user_mode_only ? PFG_REGION_USER_MODE_ONLY : 0u) | (shared ? PFG_REGION_SHARED : 0u) |
                   (write_protect ? PFG_REGION_WRITE_PROTECT : 0u);
  uint8_t message[PFG_MESSAGE] = {0};
  pfg_put32(message, PFG_MAGIC);
  pfg_put32(message + 4, PFG_REGION);
  pfg_put64(message + 8, region->address);
  pfg_put64(message + 16, region->length);
  pfg_put64(message + 24, store_offset);
  pfg_put32(message + 32, (uint32_t)pfg_region_page_size(g, region, store_offset));
  pfg_put32(message + 36, flags);
  pfg_put64(message + 40, features);
  pfg_put64(message + 48, ioctls);
  pfg_put32(message + 56, region->flags & 0xff);
  pfg_put32(message + 60, region->serial);
  uint64_t deadline = pfg_now_ms() + g->ack_timeout_ms;
  *stage = PAGEFAULT_GUEST_AT_SEND;
  err = pfg_send(g->fd, message, region->uffd, deadline);
  if (err != 0) {
    return err;
  }
  *stage = PAGEFAULT_GUEST_AT_PAGER;
  return pfg_wait_for_ack(g, region, deadline);
}

static inline int pagefault_guest_page_at(pagefault_guest *g, void *addr, size_t len, uint64_t store_offset, unsigned flags,
                                          pagefault_guest_stage *stage) {
  pagefault_guest_stage ignored;
  pfg_region *region = NULL;
  pfg_progress progress = {0, 0, 0};
  uint64_t address = (uint64_t)(uintptr_t)addr, features = 0;
  stage = stage != NULL ? stage : &ignored;
  *stage = PAGEFAULT_GUEST_AT_ARGUMENTS;
  int err = pfg_check_connected(g);
  if (err == 0) {
    err = pfg_check_range(g, address, len, store_offset, pfg_kernel_page_size(flags));
  }
  if (err == 0) {
    err = pfg_take_slot(g, address, len, flags, &region);
  }
  if (err != 0) {
    return err;
  }
  *stage = PAGEFAULT_GUEST_AT_USERFAULTFD;
  int uffd = pfg_uffd_open(pfg_wanted_features(g), &features, &region->user_mode_only);
  if (uffd < 0) {
    pfg_free_slot(g, region);
    return uffd;
  }
  region->uffd = uffd;
  region->page = pfg_kernel_page_size(flags);
  err = pfg_hand_over(g, region, &progress, features, store_offset, stage);
  if (err != 0) {
    pfg_undo(region, &progress);
    pfg_free_slot(g, region);
  }
  return err;
}

static inline int pagefault_guest_page(pagefault_guest *g, void *addr, size_t len, uint64_t store_offset, unsigned flags) {
  return pagefault_guest_page_at(g, addr, len, store_offset, flags, NULL);
}

/* mmap with an alignment: more than is needed, and what is too much given back. NULL: errno says why not. */
static inline void *pfg_mmap_aligned(size_t len, size_t align) {
  size_t room = len + align - (size_t)sysconf(_SC_PAGESIZE);
  void *mapped = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    return NULL;
  }
  uintptr_t start = (uintptr_t)mapped, at = (start + align - 1) & ~(uintptr_t)(align - 1);
  if (at > start) {
    munmap(mapped, at - start);
  }
  if (start + room > at + len) {
    munmap((void *)(at + len), start + room - at - len);
  }
  return (void *)at;
}

static inline int pagefault_guest_map(pagefault_guest *g, size_t len, uint64_t store_offset, void **addr) {
  size_t page = pagefault_guest_page_size(g);
  *addr = NULL;
  int err = pfg_check_connected(g);
  if (err != 0) {
    return err;
  }
  if (len == 0 || len > SIZE_MAX - 2 * page) {
    return -EINVAL;
  }
  len = (len + page - 1) & ~(page - 1);
  void *memory = pfg_mmap_aligned(len, page);
  if (memory == NULL) {
    return -errno;
  }
  err = pagefault_guest_page(g, memory, len, store_offset, PAGEFAULT_GUEST_MMAP);
  if (err != 0) {
    munmap(memory, len);
    return err;
  }
  *addr = memory;
  return 0;
}

/* --- regions that are there ----------------------------------------------------------------------------------------------------- */

/* The region that begins there and is served. With the lock. */
static inline pfg_region *pfg_find(pagefault_guest *g, const void *addr) {
  for (int i = 0; i < PAGEFAULT_GUEST_REGIONS_MAX; i++) {
    if (g->regions[i].state == PFG_ACTIVE && g->regions[i].address == (uint64_t)(uintptr_t)addr) {
      return &g->regions[i];
    }
  }
  return NULL;
}

static inline int pagefault_guest_unpage(pagefault_guest *g, void *addr) {
  int err = pfg_check_connected(g);
  if (err != 0) {
    return err;
  }
  pthread_mutex_lock(&g->lock);
  pfg_region *region = pfg_find(g, addr);
  if (region == NULL) {
    pthread_mutex_unlock(&g->lock);
    return -ENOENT;
  }
  region->state = PFG_ENDING; /* no more drops */
  while (region->dropping) {
    pthread_cond_wait(&g->changed, &g->lock);
  }
  unsigned kind = region->flags & 0xff;
  size_t len = (size_t)region->length;
  int uffd = region->uffd;
  pthread_mutex_unlock(&g->lock);

  if (kind == PAGEFAULT_GUEST_MALLOC || kind == PAGEFAULT_GUEST_BRK) { /* the heap's: new pages in place of the paged ones, in one step */
    err = mmap(addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED ? 0 : -errno;
  } else {
    err = munmap(addr, len) == 0 ? 0 : -errno;
  }

  pthread_mutex_lock(&g->lock);
  region->state = err == 0 ? PFG_FREE : PFG_ACTIVE;
  if (err == 0) {
    region->uffd = -1;
    __atomic_sub_fetch(&g->active, 1, __ATOMIC_ACQ_REL);
  }
  pthread_cond_broadcast(&g->changed); /* the thread that drops may wait for this */
  pthread_mutex_unlock(&g->lock);
  if (err == 0) {
    close(uffd);
  }
  return err;
}

static inline int pagefault_guest_user_mode_only(pagefault_guest *g, const void *addr) {
  int err = pfg_check_connected(g);
  if (err != 0) {
    return err;
  }
  pthread_mutex_lock(&g->lock);
  const pfg_region *region = pfg_find(g, addr);
  int result = region == NULL ? -ENOENT : region->user_mode_only;
  pthread_mutex_unlock(&g->lock);
  return result;
}

static inline int pagefault_guest_disconnect(pagefault_guest *g) {
  int err = pfg_check_connected(g);
  if (err != 0) {
    return err;
  }
  pthread_mutex_lock(&g->lock);
  err = g->stopping ? -ENOTCONN : 0; /* by another thread, at the same time */
  for (int i = 0; err == 0 && i < PAGEFAULT_GUEST_REGIONS_MAX; i++) {
    err = g->regions[i].state != PFG_FREE ? -EBUSY : 0;
  }
  if (err != 0) {
    pthread_mutex_unlock(&g->lock);
    return err;
  }
  g->stopping = 1;
  g->gone = 1; /* no new regions */
  pthread_cond_broadcast(&g->changed);
  pthread_mutex_unlock(&g->lock);
  shutdown(g->fd, SHUT_RDWR);
  pthread_join(g->reader, NULL);
  pthread_join(g->dropper, NULL);
  pfg_connected = NULL;
  close(g->fd);
  g->fd = -1;
  __atomic_store_n(&g->pid, 0, __ATOMIC_RELAXED);
  return 0;
}

#endif
