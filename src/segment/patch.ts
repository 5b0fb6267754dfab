/** Laying shared memory over a segment: what is wrong is said before the core is asked. Any thread. */

import { constants } from 'node:os';
import { outOfRange } from '../errors/argument.js';
import { PagefaultError } from '../errors/pagefault-error.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import { probe } from '../native/load.js';
import { memfdRefused } from './backend.js';
import { checkCount } from './range.js';
import type { Region } from './region.js';
import type { SegmentMemory } from './segment-memory.js';
import { type SharedMemory, sharedOf } from './shared-memory.js';

function checkPlace({ byteLength, pageSize, name }: Region, offset: number, length: number): void {
  if (offset % pageSize !== 0) {
    throw outOfRange(
      `patch(): offset must be a multiple of the pageSize of segment "${name}", which is ${pageSize}, not ${offset}`,
      'ERR_PAGEFAULT_BASE_NOT_ALIGNED',
    );
  }
  if (length > byteLength - offset) {
    throw outOfRange(
      `patch(): ${length} bytes of shared memory from offset ${offset} reach past the end of segment "${name}" at ${byteLength}`,
      'ERR_PAGEFAULT_OUT_OF_BOUNDS',
    );
  }
  if (length % pageSize !== 0 && offset + length !== byteLength) {
    throw outOfRange(
      `patch(): the shared memory must have a multiple of the pageSize of segment "${name}", which is ${pageSize}, or reach exactly to its end, and has ${length} bytes`,
      'ERR_PAGEFAULT_SIZE_NOT_ALIGNED',
    );
  }
}

/** What the core says is in the way. */
function refuse({ name, writable }: Region, errno: number): never {
  if (errno === constants.errno.EEXIST) {
    throw new PagefaultError(
      'ERR_PAGEFAULT_DIRTY',
      `patch(): pages of segment "${name}" there are modified; flush or discard them first`,
      { segment: name },
    );
  }
  if (errno === constants.errno.EBUSY) {
    throw new PagefaultError(
      'ERR_PAGEFAULT_PINNED',
      `patch(): pages of segment "${name}" there are pinned, or are being loaded all the time`,
      { segment: name },
    );
  }
  const reason = memfdRefused(probe(), writable) ?? "this kernel's userfaultfd lacks what it needs";
  throw new UnsupportedError(`patch(): shared memory cannot be laid over segment "${name}": ${reason}`);
}

/** See `Segment.patch`. */
export function patchMemory(region: Region, memory: SegmentMemory, offset: number, shared: SharedMemory): void {
  checkCount('patch(): offset', offset, 0);
  const object = sharedOf('patch()', shared);
  region.check();
  checkPlace(region, offset, shared.byteLength);
  memory.existing('patch()', { offset, byteLength: shared.byteLength }, true);
  const errno = region.call((core, id) => core.regionPatch(id, offset, object));
  if (errno !== 0) refuse(region, errno);
}
