/** Closing a descriptor that belongs to no object. Any thread. */

import { native } from '../native/load.js';
import { checkFd, wrongDescriptor } from './descriptor.js';

/**
 * Closes a file descriptor, such as one that `receiveFds`, `takeFd` or `intoFd` gave. Not one of `node:fs`: a Worker closes those that it has
 * not closed itself when it ends, by a number that is somebody else's by then.
 * @throws {DescriptorError} it is not open
 */
export function closeFd(fd: number): void {
  checkFd('closeFd', fd);
  if (native().descriptorClose(fd) !== 0) throw wrongDescriptor('closeFd', fd, 'an open descriptor');
}
