// Two segments that share one limit: what one of them needs, the other gives back.
import { budget, map } from 'pagefault';
import { zero } from 'pagefault/stores';

const shared = budget('4MiB');
const first = await map(zero('64MiB'), { resident: shared });
const second = await map(zero('64MiB'), { resident: shared });
try {
  const touchAll = (bytes) => {
    let sum = 0;
    for (let offset = 0; offset < bytes.length; offset += 4096) sum += bytes[offset];
    return sum;
  };
  const show = (when) => {
    const kib = (segment) => `${segment.stats().residentBytes / 1024} KiB`;
    console.log(`${when}: first ${kib(first)}, second ${kib(second)}, together at most ${shared.limit / 1024} KiB`);
  };
  touchAll(first.view(Uint8Array));
  show('after reading the first');
  touchAll(second.view(Uint8Array));
  show('after reading the second');
} finally {
  await first.close();
  await second.close();
  shared.close();
}
