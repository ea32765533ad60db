// Create and read a Checkout Session with the official client, and ask for something unknown.
import Stripe from "stripe";
import { readFileSync } from "node:fs";

const { url, key, order } = JSON.parse(readFileSync(0, "utf8"));
const at = new URL(url);
const client = new Stripe(key, { host: at.hostname, port: at.port, protocol: "http", telemetry: false });
const made = await client.checkout.sessions.create(order);
const found = await client.checkout.sessions.retrieve(made.id);
let error = "";
try {
  await client.checkout.sessions.create({ ...order, sucess_url: "x" });
} catch (refused) {
  error = refused.code;
}
console.log(JSON.stringify({ total: found.amount_total, status: found.status, error }));
