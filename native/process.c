/*
 * pidfds, how processes end, and the memory of others. A pidfd names one process for ever: a signal through it never reaches another one
 * that got the same number. Any thread: a child of one thread is a child of the process.
 */
#include "process.h"

#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

int pf_pidfd_open(pid_t pid) {
  int fd = (int)syscall(SYS_pidfd_open, pid, 0); /* close-on-exec by itself */
  return fd < 0 ? -errno : fd;
}

int pf_pidfd_signal(int pidfd, int number) { return syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0) == 0 ? 0 : -errno; }

int pf_pidfd_wait(int pidfd, int what, pf_status_t *out) {
  static const int options[] = {
      [PF_WAIT_PEEK] = WEXITED | WNOWAIT,
      [PF_WAIT_REAP] = WEXITED,
      [PF_WAIT_STOPS] = WSTOPPED | WCONTINUED,
  };
  siginfo_t info = {0}; /* si_pid stays 0 when there is nothing */
  int failed;
  do {
    failed = waitid((idtype_t)PF_P_PIDFD, (id_t)pidfd, &info, options[what] | WNOHANG);
  } while (failed != 0 && errno == EINTR);
  if (failed != 0) {
    return -errno;
  }
  out->code = info.si_code;
  out->status = info.si_status;
  return info.si_pid != 0;
}

int pf_pidfd_exit(int pidfd, pf_status_t *out) {
  struct pf_pidfd_info info = {.mask = PF_PIDFD_INFO_EXIT};
  if (ioctl(pidfd, PF_PIDFD_GET_INFO, &info) != 0) {
    return -errno;
  }
  if ((info.mask & PF_PIDFD_INFO_EXIT) == 0) {
    return 0;
  }
  int raw = info.exit_code;
  out->code = WIFEXITED(raw) ? CLD_EXITED : WCOREDUMP(raw) ? CLD_DUMPED : CLD_KILLED;
  out->status = WIFEXITED(raw) ? WEXITSTATUS(raw) : WTERMSIG(raw);
  return 1;
}

int pf_is_readable(int fd) {
  struct pollfd one = {.fd = fd, .events = POLLIN};
  int count;
  do {
    count = poll(&one, 1, 0);
  } while (count < 0 && errno == EINTR);
  if (count > 0 && (one.revents & POLLNVAL) != 0) {
    return -EBADF;
  }
  return count < 0 ? -errno : count;
}

int pf_duplicate(int fd) {
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return copy < 0 ? -errno : copy;
}

ssize_t pf_process_read(pid_t pid, uint64_t address, uint8_t *into, size_t len) {
  struct iovec here = {.iov_base = into, .iov_len = len};
  struct iovec there = {.iov_base = (void *)(uintptr_t)address, .iov_len = len};
  ssize_t got = process_vm_readv(pid, &here, 1, &there, 1, 0);
  return got < 0 ? -errno : got;
}
