// Runs the public HTTP cache tests (the npm package `http-cache-tests`) against one cache; see bench/conformance.py.
//   node cache_tests.mjs SUITE_FOLDER CACHE_URL ORIGIN_URL
// The suite sets its origin up by PUT through the cache. That is no part of what is tested, and an edge for viewers
// refuses PUT, so that here those requests go to the origin itself.
import { pathToFileURL } from 'node:url'

const [folder, cache, origin] = process.argv.slice(2)
const load = name => import(pathToFileURL(`${folder}/${name}`))
const { default: suites } = await load('tests/index.mjs')
const { default: surrogate } = await load('tests/surrogate-control.mjs')
const { runTests, getResults } = await load('client/runner.mjs')
const { default: fetch } = await load('../node-fetch/lib/index.mjs')

const split = (url, options) => {
  const { pathname } = new URL(url)
  const ownWay = pathname.startsWith('/config/') || pathname.startsWith('/state/')
  return fetch(ownWay ? origin + url.slice(cache.length) : url, options)
}
suites.push(surrogate)
await runTests(suites, split, false, cache)
const results = getResults()
const tests = suites.flatMap(suite => suite.tests.map(test => ({
  suite: suite.id,
  id: test.id,
  kind: test.kind || 'required',
  depends_on: test.depends_on || [],
  skipped: !(test.id in results),
  passed: results[test.id] === true,
  setup: Array.isArray(results[test.id]) && results[test.id][0] === 'Setup',
  why: Array.isArray(results[test.id]) ? results[test.id][1] : ''
})))
console.log(JSON.stringify(tests))
