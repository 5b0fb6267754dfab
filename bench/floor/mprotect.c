/*
 * The floor of the `mprotect` backend: a memfd mapped twice. The user's side has no access; the faulting thread reads the page from the
 * file through the other mapping and then makes it readable. Random order splits the user's side into many kernel mappings: keep the
 * region well below vm.max_map_count pages.
 *
 * The SIGSEGV handler is ours only between open and close. Between them, Node's own (the trap handler of WebAssembly) is not called.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "floor.h"

static struct {
  uintptr_t base;
  char *alias;
  size_t len;
  size_t page_size;
  int fd;
  int memfd;
  struct sigaction before;
} the;

static void on_sigsegv(int signal_number, siginfo_t *info, void *context) {
  (void)signal_number;
  (void)context;
  int saved = errno;
  uintptr_t offset = (uintptr_t)info->si_addr - the.base;
  if (offset >= the.len) floor_die("floor: SIGSEGV outside of the region\n");
  offset &= ~(uintptr_t)(the.page_size - 1);
  if (pread(the.fd, the.alias + offset, the.page_size, (off_t)offset) != (ssize_t)the.page_size) floor_die("floor: pread failed\n");
  if (mprotect((void *)(the.base + offset), the.page_size, PROT_READ) != 0) floor_die("floor: mprotect failed\n");
  errno = saved;
}

static void release(void) {
  if (the.base != 0) munmap((void *)the.base, the.len);
  if (the.alias != NULL) munmap(the.alias, the.len);
  if (the.memfd >= 0) close(the.memfd);
  memset(&the, 0, sizeof the);
}

int floor_mprotect_open(size_t len, int fd, void **base) {
  if (the.base != 0) return -EBUSY;
  the.len = len;
  the.page_size = floor_page_size();
  the.fd = fd;
  the.memfd = memfd_create("floor", MFD_CLOEXEC);
  if (the.memfd < 0) return -errno;
  int error = ftruncate(the.memfd, (off_t)len) == 0 ? 0 : -errno;
  if (error == 0) {
    void *user = mmap(NULL, len, PROT_NONE, MAP_SHARED, the.memfd, 0);
    void *alias = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, the.memfd, 0);
    if (user == MAP_FAILED || alias == MAP_FAILED) error = -errno;
    the.base = user == MAP_FAILED ? 0 : (uintptr_t)user;
    the.alias = alias == MAP_FAILED ? NULL : alias;
  }
  struct sigaction action = {.sa_flags = SA_SIGINFO | SA_NODEFER};
  action.sa_sigaction = on_sigsegv;
  sigfillset(&action.sa_mask);
  if (error == 0 && sigaction(SIGSEGV, &action, &the.before) != 0) error = -errno;
  if (error != 0) {
    release();
    return error;
  }
  *base = (void *)the.base;
  return 0;
}

int floor_mprotect_close(void) {
  if (the.base == 0) return -EINVAL;
  struct sigaction ours;
  sigaction(SIGSEGV, &the.before, &ours);
  int replaced = ours.sa_sigaction != on_sigsegv;
  release();
  return replaced;
}
