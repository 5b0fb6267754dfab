// WebAssembly over a file that is larger than the memory it may use: the pages of its memory come from the file when the program touches them.
import { statSync } from 'node:fs';
import { map } from 'pagefault';
import { file } from 'pagefault/stores';

const WASM_PAGE = 65_536;

// (func (export "count") (param $byte i32) (param $from i32) (param $to i32) (result i32)
//   (local $count i32)
//   loop  $count += (load8_u $from) == $byte;  $from += 1;  br_if $from < $to  end  $count)
const program = Buffer.from(
  [
    '0061736d01000000', // magic and version
    '01080160037f7f7f017f', // a type: (i32, i32, i32) -> i32
    '020c0103656e76036d656d020000', // import "env" "mem", a memory
    '03020100', // a function of that type
    '07090105636f756e740000', // export "count"
    '0a24012201017f0340200320012d00002000466a2103200141016a22012002490d000b20030b', // its code
  ].join(''),
  'hex',
);

const path = process.execPath;
const byteLength = Math.min(statSync(path).size, 32 * 1024 * 1024);
const pages = Math.ceil(byteLength / WASM_PAGE);
// A memory that may grow is paged where it grows; with a maximum that it has already it works on every backend.
const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });

const segment = await map(file(path), { into: memory, byteLength, resident: '4MiB' });
try {
  const { count } = new WebAssembly.Instance(new WebAssembly.Module(program), { env: { mem: memory } }).exports;
  console.log(`WebAssembly counted ${count(0, 0, byteLength)} zeroes in ${byteLength} bytes`);
  console.log(
    `${segment.stats().loads} pages loaded, at most 4096 KiB in memory: ${segment.stats().budgetBytes >> 10} now`,
  );
  try {
    count(0, pages * WASM_PAGE, pages * WASM_PAGE + 1);
  } catch (error) {
    console.log(`behind its end: ${error.name}: ${error.message}`);
  }
} finally {
  await segment.close();
}

// The same memory, with the pages of something else.
const again = await map(file(import.meta.filename ?? process.argv[1]), { into: memory });
try {
  console.log(Buffer.from(again.view(Uint8Array, 0, 30)).toString());
} finally {
  await again.close();
}
