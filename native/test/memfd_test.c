/*
 * Memory objects: seals, holes, sizes of pages.
 */
#include "mapping.h"
#include "support.h"

#define CLOEXEC_SEALABLE (MFD_CLOEXEC | MFD_ALLOW_SEALING)

static void seals(pf_backend_t backend) {
  (void)backend;
  int fd = pf_memfd_create("sealed", CLOEXEC_SEALABLE);
  must(fd >= 0, "a memory object");
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(pf_memfd_seals(fd) & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
  EXPECT_EQ(ftruncate(fd, (off_t)(2 * PAGE)), 0);
  EXPECT_EQ(pf_memfd_add_seals(fd, F_SEAL_SHRINK), 0);
  EXPECT_EQ(ftruncate(fd, (off_t)PAGE), -1);
  EXPECT_EQ(errno, EPERM);
  void *writable = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  EXPECT_EQ(pf_memfd_add_seals(fd, F_SEAL_WRITE), -EBUSY);
  munmap(writable, PAGE);
  EXPECT_EQ(pf_memfd_add_seals(fd, F_SEAL_WRITE | F_SEAL_SEAL), 0);
  EXPECT_EQ(pf_memfd_punch(fd, 0, PAGE), -EPERM);
  EXPECT_EQ(pf_memfd_add_seals(fd, F_SEAL_GROW), -EPERM);
  close(fd);
  EXPECT_EQ(pf_memfd_seals(fd), -EBADF);
  int plain = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(pf_memfd_seals(plain), -EINVAL);
  EXPECT_EQ(pf_memfd_huge_page_size(plain), 0);
  close(plain);
  EXPECT_EQ(pf_memfd_create("x", 0x8000), -EINVAL);
}

static void holes(pf_backend_t backend) {
  (void)backend;
  int fd = pf_memfd_create("holes", CLOEXEC_SEALABLE);
  must(fd >= 0 && ftruncate(fd, (off_t)(8 * PAGE)) == 0, "a memory object");
  uint8_t *bytes = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  must(bytes != MAP_FAILED, "a mapping");
  memset(bytes, 5, 8 * PAGE);
  struct stat before, after;
  fstat(fd, &before);
  EXPECT_EQ(pf_memfd_punch(fd, 2 * PAGE, 3 * PAGE), 0);
  fstat(fd, &after);
  EXPECT_EQ(after.st_size, 8 * (off_t)PAGE);
  EXPECT(after.st_blocks < before.st_blocks);
  EXPECT_EQ(bytes[2 * PAGE - 1], 5);
  EXPECT_EQ(bytes[2 * PAGE], 0);
  EXPECT_EQ(bytes[5 * PAGE - 1], 0);
  EXPECT_EQ(bytes[5 * PAGE], 5);
  EXPECT_EQ(pf_memfd_punch(fd, 0, 0), -EINVAL);
  munmap(bytes, 8 * PAGE);
  close(fd);
}

int main(void) {
  run_one("seals are kept, and told from what has none", "", seals, PF_BACKEND_SIGNAL);
  run_one("a hole reads zero and costs nothing", "", holes, PF_BACKEND_SIGNAL);
  return summary();
}
