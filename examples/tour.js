// What user-space paging is for, in two acts, each verified:  npm start   or   node examples/tour.js [FILE]
// Act 1 reads a real file through page faults in an eighth of its size. Act 2 is an array of 64 GiB that a few lines of
// JavaScript serve, fail to serve, and serve again.
import { actOne } from './tour/act-one.js';
import { actTwo } from './tour/act-two.js';

const [path = process.execPath] = process.argv.slice(2);
try {
  const verified = [await actOne(path), await actTwo()];
  if (verified.includes(false)) {
    console.error('Something did not verify: see above.');
    process.exitCode = 1;
  }
} catch (error) {
  console.error(`The tour stopped: ${error.message}`);
  if (error.cause !== undefined && !error.message.includes(error.cause.message)) {
    console.error(`  because: ${error.cause.message}`);
  }
  console.error('  "npx pagefault doctor" says what works on this machine.');
  process.exitCode = 1;
}
