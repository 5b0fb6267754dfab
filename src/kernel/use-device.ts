/** A descriptor of /dev/userfaultfd from somebody who may open it. Any thread; it counts for the whole process. */

import { constants } from 'node:os';
import { native, probeAgain } from '../native/load.js';
import { checkFd, systemError, wrongDescriptor } from './descriptor.js';
import type { HasFd } from './fd-passing.js';

const { EBADF, ENOTTY } = constants.errno;
const WHO = 'useDevice()';

/**
 * Segments of this process take their userfaultfds from this descriptor of /dev/userfaultfd (Linux 6.1) where the system call is refused, or gives less: then a
 * process without any privilege, in a seccomp filter that forbids userfaultfd(2), has backends 'signal' and 'thread'. The descriptor is duplicated and stays the
 * caller's. One that is inherited needs no call: PAGEFAULT_USERFAULTFD=3 in the environment does the same.
 *
 * @throws DescriptorError where it is something else; SystemError where the kernel refuses.
 *
 * @example
 * const { fds: [device] } = receiveFds(socket); // sent by a process that may open /dev/userfaultfd
 * useDevice(device);
 */
export function useDevice(device: number | HasFd): void {
  const fd = typeof device === 'object' && device !== null ? device.fd : device;
  checkFd(WHO, fd);
  const errno = native().lendDevice(fd);
  if (errno === ENOTTY || errno === EBADF) throw wrongDescriptor(WHO, fd, '/dev/userfaultfd');
  if (errno !== 0) throw systemError(WHO, errno, 'ioctl(USERFAULTFD_IOC_NEW)');
  probeAgain();
}
