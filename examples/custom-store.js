// Pages from code of your own: stores/words.js makes them up, yours may fetch them from wherever they are.
import { map } from 'pagefault';
import { custom } from 'pagefault/stores';

const store = custom(new URL('./stores/words.js', import.meta.url), { word: 'hello', byteLength: 2 ** 30 });
const segment = await map(store, { resident: '1MiB' });
try {
  const bytes = segment.view(Uint8Array);
  const text = (offset, length) => new TextDecoder().decode(bytes.subarray(offset, offset + length));
  console.log(text(0, 17)); // hello hello hello
  console.log(text(600_000_000, 17)); // the same, far into a gigabyte that nobody ever wrote down
  console.log(`${segment.stats().storeReads} reads of the store`);
} finally {
  await segment.close();
}
