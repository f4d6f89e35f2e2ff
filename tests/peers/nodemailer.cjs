// Sends one message by nodemailer: options and message as JSON on stdin, what came of it as JSON on stdout.
const nodemailer = require("nodemailer");

let input = "";
process.stdin.on("data", (data) => (input += data));
process.stdin.on("end", async () => {
  const { options, envelope, raw } = JSON.parse(input);
  const transport = nodemailer.createTransport(options);
  try {
    const info = await transport.sendMail({ envelope, raw: Buffer.from(raw, "base64") });
    console.log(JSON.stringify({ accepted: info.accepted, rejected: info.rejected, response: info.response }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error), code: error.responseCode || 0 }));
    process.exitCode = 1;
  } finally {
    transport.close();
  }
});
