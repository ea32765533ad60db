// Verify a header with the official SDK, and sign the same body with its own signer.
import Stripe from "stripe";
import { readFileSync } from "node:fs";

const { body, header, secret } = JSON.parse(readFileSync(0, "utf8"));
const client = new Stripe("sk_test_x");
const event = client.webhooks.constructEvent(body, header, secret);
const signed = client.webhooks.generateTestHeaderString({ payload: body, secret });
console.log(JSON.stringify({ verified: event.id, header: signed }));
