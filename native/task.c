#include "task.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

ssize_t pf_task_read(pid_t tid, const char *file, char *text, size_t size) {
  char path[64];
  int before = errno;
  snprintf(path, sizeof path, "/proc/self/task/%d/%s", (int)tid, file);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t got = fd < 0 ? -errno : read(fd, text, size - 1);
  if (fd >= 0) {
    got = got < 0 ? -errno : got == 0 ? -ESRCH : got;
    close(fd);
  }
  text[got > 0 ? got : 0] = '\0';
  errno = before;
  return got;
}

bool pf_task_has_ended(pid_t tid) {
  int before = errno;
  bool ended = syscall(SYS_tgkill, getpid(), tid, 0) != 0 && errno == ESRCH;
  errno = before;
  return ended;
}
