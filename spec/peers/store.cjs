// s3rver on a free port of this machine, over the folder that is named, until standard input ends. With two more names, of a key and a certificate: by https.
const fs = require('fs')
const S3rver = require('s3rver')
const [directory, key, cert] = process.argv.slice(2)
const options = { port: 0, address: '127.0.0.1', silent: true, directory, configureBuckets: [{ name: 'bucket' }] }
if (key) Object.assign(options, { key: fs.readFileSync(key), cert: fs.readFileSync(cert) })
new S3rver(options).run().then(address => console.log(address.port))
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))
