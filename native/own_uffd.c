/*
 * The engine's userfaultfd: one for the process, user-mode-only, with SIGBUS, opened once and kept: closing it would let every missing
 * page read as zeroes. Nobody waits in the kernel on it (faults are signals), so nothing is ever woken. Any thread, a signal handler too.
 */
#include "os.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <unistd.h>

_Atomic int pf__own_uffd = -1;

/* A descriptor after the handshake, or -errno. */
static int open_for_signals(int flags) {
  uint64_t granted, ioctls;
  int fd = pf_uffd_open(O_CLOEXEC | O_NONBLOCK | flags, -1);
  if (fd < 0) {
    return fd;
  }
  int err = pf_uffd_handshake(fd, PF_UFFD_FEATURE_SIGBUS, &granted, &ioctls);
  if (err != 0) {
    close(fd);
    return err;
  }
  return fd;
}

int pf_own_uffd_start(void) {
  if (atomic_load(&pf__own_uffd) >= 0) {
    return 0;
  }
  int fd = open_for_signals(PF_UFFD_USER_MODE_ONLY);
  if (fd == -EINVAL) {
    fd = open_for_signals(0); /* before 5.11 there was no such flag, and no need for it */
  }
  if (fd < 0) {
    return fd;
  }
  int expected = -1;
  if (!atomic_compare_exchange_strong(&pf__own_uffd, &expected, fd)) {
    close(fd);
  }
  return 0;
}

int pf_own_uffd_register(void *addr, size_t len) {
  uint64_t ioctls;
  return pf_uffd_register(atomic_load(&pf__own_uffd), (uintptr_t)addr, len, PF_UFFDIO_REGISTER_MODE_MISSING, &ioctls);
}

/* Goes on after a partial run, which is what the kernel makes of an obstacle that is not at the very start. */
int pf_own_uffd_copy(void *addr, const void *src, size_t len, size_t *done) {
  int fd = atomic_load_explicit(&pf__own_uffd, memory_order_relaxed);
  for (*done = 0; *done < len;) {
    int64_t moved = pf_uffd_copy(fd, (uintptr_t)addr + *done, (uintptr_t)src + *done, len - *done, PF_UFFDIO_COPY_MODE_DONTWAKE);
    if (moved < 0) {
      return (int)moved;
    }
    *done += (size_t)moved;
  }
  return 0;
}

int pf_own_uffd_zero(void *addr, size_t len, size_t *done) {
  int fd = atomic_load_explicit(&pf__own_uffd, memory_order_relaxed);
  for (*done = 0; *done < len;) {
    int64_t moved = pf_uffd_zeropage(fd, (uintptr_t)addr + *done, len - *done, PF_UFFDIO_COPY_MODE_DONTWAKE);
    if (moved < 0) {
      return (int)moved;
    }
    *done += (size_t)moved;
  }
  return 0;
}
