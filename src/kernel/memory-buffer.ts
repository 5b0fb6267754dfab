/** Memory of this process as an ArrayBuffer that owns nothing. Any thread. */

import { constants } from 'node:buffer';
import { outOfRange } from '../errors/argument.js';
import { guarded } from '../errors/from-native.js';
import { native } from '../native/load.js';

/** User space ends at 2^47 bytes; the runtime takes buffers up to here. */
const PRACTICAL_LIMIT = 2 ** 45;

/** An ArrayBuffer over `byteLength` bytes from `address`. Nobody checks that they are mapped, now or later. */
export function bufferOver(who: string, address: bigint, byteLength: number): ArrayBuffer {
  const most = Math.min(constants.MAX_LENGTH, PRACTICAL_LIMIT);
  if (byteLength > most) {
    const hint = constants.MAX_LENGTH < PRACTICAL_LIMIT ? '; Node.js 22 and later hold more' : '';
    throw outOfRange(
      `${who}: ${byteLength} bytes are more than the ${most} that Node.js ${process.versions.node} holds in one ArrayBuffer${hint}`,
    );
  }
  return guarded(undefined, () => native().memoryBuffer(address, byteLength));
}
