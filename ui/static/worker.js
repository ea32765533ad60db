// The service worker: it keeps the page for when there is no network, and nothing of anybody.
const CACHE = "offline-VERSION", PAGE = "/offline", KEPT = [PAGE, "/icons/icon.svg"];
self.addEventListener("install", (event) => {
  const fresh = KEPT.map((path) => new Request(path, { cache: "reload" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(fresh)).then(() => self.skipWaiting()));
});
self.addEventListener("activate", (event) => {
  const old = caches.keys().then((names) => Promise.all(names.filter((name) => name !== CACHE).map((name) => caches.delete(name))));
  event.waitUntil(Promise.all([old, self.registration.navigationPreload?.enable()]).then(() => self.clients.claim()));
});
self.addEventListener("fetch", (event) => {
  const { request } = event, { origin, pathname } = new URL(request.url);
  if (request.mode === "navigate" && origin === self.location.origin) {
    // What was sent early has to be used, or the browser sends it a second time.
    const answer = Promise.resolve(event.preloadResponse).then((early) => early || fetch(request));
    event.respondWith(pathname === "/" ? answer.catch(() => caches.match(PAGE)) : answer);
  } else if (origin === self.location.origin && KEPT.includes(pathname)) {
    event.respondWith(fetch(request).catch(() => caches.match(pathname)));
  }
});
