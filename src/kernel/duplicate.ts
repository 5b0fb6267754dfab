/** Duplicates of descriptors: other numbers for the same open files, closed at exec. Any thread. */

import { native } from '../native/load.js';
import { closeFd } from './close-fd.js';
import { NO_DESCRIPTOR, systemError } from './descriptor.js';
import type { HasFd } from './fd-passing.js';

/** The duplicate is the caller's. `who` begins the sentence of the error. @throws SystemError */
export function duplicateFd(who: string, fd: number): number {
  const copy = native().descriptorDuplicate(fd);
  if (copy < 0) {
    throw systemError(`${who}: ${NO_DESCRIPTOR[-copy] ?? 'a descriptor cannot be duplicated'}`, -copy, 'fcntl');
  }
  return copy;
}

/** One of each, in the same order, or none. */
export function duplicateFds(who: string, descriptors: readonly HasFd[]): number[] {
  const copies: number[] = [];
  try {
    for (const { fd } of descriptors) copies.push(duplicateFd(who, fd));
  } catch (error) {
    for (const copy of copies) closeFd(copy);
    throw error;
  }
  return copies;
}
