// A search index that is several times as large as the memory it may use:  node examples/nearest.js [MiB]
// With flatbush, an R-tree in one buffer that it searches where it is: a query reads the pages on its way and no others.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Flatbush from 'flatbush';
import { map } from 'pagefault';
import { file } from 'pagefault/stores';

const places = Math.max(20_000, Math.round((Number(process.argv[2] ?? 4) * 2 ** 20) / 38.5));

// Where place i is, in a square of 1000 by 1000.
const scatter = (i, factor) => (Math.imul(i + 1, factor) >>> 0) / 2 ** 32;
const xOf = (i) => 1000 * scatter(i, 0x9e3779b1);
const yOf = (i) => 1000 * scatter(i, 0x85ebca6b);

function write(path) {
  const index = new Flatbush(places);
  for (let i = 0; i < places; i++) index.add(xOf(i), yOf(i));
  index.finish();
  writeFileSync(path, new Uint8Array(index.data));
}

/** The same without an index: looks at every place. */
function nearestOfAll(x, y, count) {
  const best = [];
  for (let i = 0; i < places; i++) {
    const distance = (xOf(i) - x) ** 2 + (yOf(i) - y) ** 2;
    if (best.length === count && distance >= best[count - 1].distance) continue;
    best.push({ i, distance });
    best.sort((a, b) => a.distance - b.distance).splice(count);
  }
  return best.map(({ i }) => i);
}

function withinOfAll(x, y, right, bottom) {
  const found = [];
  for (let i = 0; i < places; i++) {
    if (xOf(i) >= x && xOf(i) <= right && yOf(i) >= y && yOf(i) <= bottom) found.push(i);
  }
  return found;
}

const kib = (bytes) => `${Math.ceil(bytes / 1024)} KiB`;
const folder = mkdtempSync(join(tmpdir(), 'pagefault-'));
try {
  const path = join(folder, 'places.flatbush');
  write(path);
  // Queries jump about in the file: nothing is read ahead.
  const segment = await map(file(path), { resident: '512KiB', readahead: 0 });
  let most = 0;
  const readBy = (query) => {
    const before = segment.stats().bytesRead;
    const found = query();
    most = Math.max(most, segment.stats().budgetBytes);
    return { found, read: segment.stats().bytesRead - before };
  };
  try {
    console.log(
      `an index of ${places} places, ${kib(segment.byteLength)}; ${segment.backend}, at most 512 KiB in memory`,
    );
    const { found: index, read: opened } = readBy(() => Flatbush.from(segment.buffer));
    console.log(`opened by reading ${kib(opened)}`);

    const x = 321.5;
    const y = 654.5;
    const { found, read } = readBy(() => index.neighbors(x, y, 5));
    assert.deepEqual(found, nearestOfAll(x, y, 5));
    console.log(
      `nearest to ${x}, ${y}: places ${found.join(', ')}; ${kib(read)} read, and again ${readBy(() => index.neighbors(x, y, 5)).read}`,
    );

    let inBoxes = 0;
    let readByBoxes = 0;
    for (let i = 0; i < 50; i++) {
      const box = [i * 17, (i * 313) % 900, i * 17 + 30, ((i * 313) % 900) + 30];
      const { found, read } = readBy(() => index.search(...box));
      assert.deepEqual(
        found.sort((a, b) => a - b),
        withinOfAll(...box),
      );
      inBoxes += found.length;
      readByBoxes += read;
    }
    console.log(`50 boxes with ${inBoxes} places in them: ${kib(readByBoxes)} read`);

    // So many that each page of the file is on the way of some: what is nearest to a place is the place itself.
    for (let i = 0; i < places; i += 10) {
      assert.deepEqual(readBy(() => index.neighbors(xOf(i), yOf(i), 1)).found, [i]);
    }
    const { faults, bytesRead } = segment.stats();
    console.log(
      `${Math.ceil(places / 10)} places that look for themselves: ${faults} faults, ${kib(bytesRead)} read by now, at most ${kib(most)} in memory at once`,
    );
    assert.ok(most <= 2 ** 19);
  } finally {
    await segment.close();
  }
} finally {
  rmSync(folder, { recursive: true });
}
