/*
 * userfaultfd(2), call by call, on any descriptor: nothing is remembered here. Any thread, in a signal handler too (but the probe).
 * Errors of a call that works through a range come in two shapes: partial progress is EAGAIN with a count above 0, and is told as that count; no
 * progress is -errno. The kernel writes -errno into the count from 6.15 on and left it alone in some paths before, so it is preset to 0.
 */
#include "os.h"
#include "sync.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/uio.h>
#include <unistd.h>

/* --- opening ------------------------------------------------------------------------------------------------------------- */

int pf_uffd_open(int flags, int device) {
  int fd = device < 0 ? (int)syscall(SYS_userfaultfd, flags) : ioctl(device, PF_USERFAULTFD_IOC_NEW, (unsigned long)flags);
  return fd < 0 ? -errno : fd;
}

int pf_uffd_handshake(int fd, uint64_t features, uint64_t *offered, uint64_t *ioctls) {
  struct pf_uffdio_api api = {.api = PF_UFFD_API, .features = features};
  if (ioctl(fd, PF_UFFDIO_API, &api) != 0) {
    return -errno;
  }
  *offered = api.features;
  *ioctls = api.ioctls;
  return 0;
}

/* 0 when a descriptor can be had, else the errno. */
static int try_open(int flags, uint64_t features, uint64_t *offered) {
  uint64_t ioctls;
  int fd = pf_uffd_open(O_CLOEXEC | O_NONBLOCK | flags, -1);
  if (fd < 0) {
    return -fd;
  }
  int err = pf_uffd_handshake(fd, features, offered, &ioctls);
  close(fd);
  return -err;
}

void pf_uffd_probe(pf_uffd_probe_t *out) {
  uint64_t unused;
  *out = (pf_uffd_probe_t){0};
  out->user_mode_errno = try_open(PF_UFFD_USER_MODE_ONLY, 0, &out->features);
  if (out->user_mode_errno == 0) { /* with the feature that the engine needs */
    out->user_mode_errno = try_open(PF_UFFD_USER_MODE_ONLY, PF_UFFD_FEATURE_SIGBUS, &unused);
  }
  out->kernel_mode_errno = try_open(0, 0, &unused);
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  out->device_errno = device >= 0 ? 0 : errno;
  if (device >= 0) {
    close(device);
  }
}

/* --- ranges ---------------------------------------------------------------------------------------------------------------- */

int pf_uffd_register(int fd, uint64_t addr, uint64_t len, uint64_t mode, uint64_t *ioctls) {
  struct pf_uffdio_register range = {.range = {.start = addr, .len = len}, .mode = mode};
  if (ioctl(fd, PF_UFFDIO_REGISTER, &range) != 0) {
    return -errno;
  }
  *ioctls = range.ioctls;
  return 0;
}

int pf_uffd_unregister(int fd, uint64_t addr, uint64_t len) {
  struct pf_uffdio_range range = {.start = addr, .len = len};
  return ioctl(fd, PF_UFFDIO_UNREGISTER, &range) == 0 ? 0 : -errno;
}

int pf_uffd_wake(int fd, uint64_t addr, uint64_t len) {
  struct pf_uffdio_range range = {.start = addr, .len = len};
  return ioctl(fd, PF_UFFDIO_WAKE, &range) == 0 ? 0 : -errno;
}

/* So often, before it is given up: a filter of system calls may refuse one and let the next one pass. */
#define ROUSINGS 64

int pf_uffd_rouse(int fd, uint64_t addr, uint64_t len) {
  int err = pf_uffd_wake(fd, addr, len);
  for (int tries = 1; err != 0 && tries < ROUSINGS; tries++) {
    sched_yield();
    err = pf_uffd_wake(fd, addr, len);
  }
  return err;
}

int pf_uffd_write_protect(int fd, uint64_t addr, uint64_t len, uint64_t mode) {
  struct pf_uffdio_writeprotect range = {.range = {.start = addr, .len = len}, .mode = mode};
  return ioctl(fd, PF_UFFDIO_WRITEPROTECT, &range) == 0 ? 0 : -errno;
}

/* --- pages ----------------------------------------------------------------------------------------------------------------- */

static int64_t outcome(int result, int64_t moved, uint64_t len) {
  if (result == 0) {
    return (int64_t)len;
  }
  return moved > 0 ? moved : -errno;
}

int64_t pf_uffd_copy(int fd, uint64_t to, uint64_t from, uint64_t len, uint64_t mode) {
  struct pf_uffdio_copy copy = {.dst = to, .src = from, .len = len, .mode = mode};
  int result = ioctl(fd, PF_UFFDIO_COPY, &copy);
  return outcome(result, copy.copy, len);
}

int64_t pf_uffd_zeropage(int fd, uint64_t addr, uint64_t len, uint64_t mode) {
  struct pf_uffdio_zeropage zero = {.range = {.start = addr, .len = len}, .mode = mode};
  int result = ioctl(fd, PF_UFFDIO_ZEROPAGE, &zero);
  return outcome(result, zero.zeropage, len);
}

int64_t pf_uffd_continue(int fd, uint64_t addr, uint64_t len, uint64_t mode) {
  struct pf_uffdio_continue map = {.range = {.start = addr, .len = len}, .mode = mode};
  int result = ioctl(fd, PF_UFFDIO_CONTINUE, &map);
  return outcome(result, map.mapped, len);
}

int64_t pf_uffd_poison(int fd, uint64_t addr, uint64_t len, uint64_t mode) {
  struct pf_uffdio_poison poison = {.range = {.start = addr, .len = len}, .mode = mode};
  int result = ioctl(fd, PF_UFFDIO_POISON, &poison);
  return outcome(result, poison.updated, len);
}

int64_t pf_uffd_move(int fd, uint64_t to, uint64_t from, uint64_t len, uint64_t mode) {
  struct pf_uffdio_move move = {.dst = to, .src = from, .len = len, .mode = mode};
  int result = ioctl(fd, PF_UFFDIO_MOVE, &move);
  return outcome(result, move.move, len);
}

/* --- the whole loop -------------------------------------------------------------------------------------------------------- */

/* How long to yield while the kernel says EAGAIN without progress and there is nothing to read: an event has just been read, or another
 * thread changes the mapping. */
#define PATIENCE_NS 1000000

/* Something that the caller must read before anything else is of use: perhaps the event that stands in the way. */
static bool has_message(int fd) {
  struct pollfd one = {.fd = fd, .events = POLLIN};
  return poll(&one, 1, 0) == 1 && (one.revents & POLLIN) != 0;
}

static int64_t attempt(const pf_uffd_job_t *job, uint64_t at) {
  uint64_t to = job->to + at, len = job->len - at;
  switch (job->what) {
  case PF_UFFD_ZERO:
    return pf_uffd_zeropage(job->fd, to, len, job->mode);
  case PF_UFFD_CONTINUE:
    return pf_uffd_continue(job->fd, to, len, job->mode);
  default:
    return pf_uffd_copy(job->fd, to, job->from + at, len, job->mode);
  }
}

/* Never written: a page of zeroes to copy from, of the largest size that a system has. */
static uint8_t zeroes[65536];

/* Of private memory ZEROPAGE says EEXIST also where there is no page but a mark, of write protection, poison or a guard (6.18): left at that,
 * whoever waits there would fault for ever. COPY replaces marks, and says EEXIST of pages only. */
static int64_t copy_zeroes(const pf_uffd_job_t *job, uint64_t at, uint64_t len) {
  return len <= sizeof zeroes ? pf_uffd_copy(job->fd, job->to + at, (uintptr_t)zeroes, len, job->mode) : -EEXIST;
}

/* Whoever waits on pages that were there already: nothing else would wake them. */
static void wake_present(const pf_uffd_job_t *job, uint64_t from, uint64_t end) {
  if (from < end && (job->mode & PF_UFFDIO_COPY_MODE_DONTWAKE) == 0) {
    pf_uffd_rouse(job->fd, job->to + from, end - from);
  }
}

int pf_uffd_resolve(const pf_uffd_job_t *job, pf_uffd_done_t *out) {
  uint64_t at = 0, present_from = 0, deadline = 0;
  int err = 0;
  *out = (pf_uffd_done_t){0};
  while (at < job->len && err == 0) {
    uint64_t step = job->page_size < job->len - at ? job->page_size : job->len - at;
    int64_t moved = attempt(job, at);
    if (moved == -EEXIST && job->what == PF_UFFD_ZERO) {
      moved = copy_zeroes(job, at, step);
    }
    if (moved == -EEXIST) {
      out->present += step;
      at += step;
      deadline = 0;
    } else if (moved > 0) {
      wake_present(job, present_from, at);
      out->copied += (uint64_t)moved;
      at += (uint64_t)moved;
      present_from = at;
      deadline = 0;
    } else if (moved == -EAGAIN) {
      uint64_t now = pf_now_ns();
      deadline = deadline == 0 ? now + PATIENCE_NS : deadline;
      err = now < deadline && !has_message(job->fd) ? 0 : -EAGAIN;
      if (err == 0) {
        sched_yield();
      }
    } else {
      err = moved == 0 ? -EIO : (int)moved;
    }
  }
  wake_present(job, present_from, at);
  out->dealt = at;
  return err;
}

/* --- messages -------------------------------------------------------------------------------------------------------------- */

int64_t pf_uffd_read(int fd, void *into, size_t len) {
  ssize_t got;
  do {
    got = read(fd, into, len);
  } while (got < 0 && errno == EINTR);
  return got < 0 ? -errno : got;
}

static bool is_blocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_NONBLOCK) == 0;
}

/* RWF_NOWAIT (6.10 for a userfaultfd) and not O_NONBLOCK: that belongs to all who share the open file, and the other may clear it. Before
 * 6.10 a moment is left between the look and the read. */
int64_t pf_uffd_read_now(int fd, void *into, size_t len) {
  struct iovec piece = {.iov_base = into, .iov_len = len};
  ssize_t got;
  do {
    got = preadv2(fd, &piece, 1, -1, RWF_NOWAIT);
  } while (got < 0 && errno == EINTR);
  if (got >= 0 || (errno != EAGAIN && errno != EOPNOTSUPP && errno != ENOSYS && errno != EPERM)) {
    return got < 0 ? -errno : got;
  }
  int err = errno;
  if (is_blocking(fd)) {
    return -EDEADLK;
  }
  return err == EAGAIN ? -EAGAIN : pf_uffd_read(fd, into, len);
}
