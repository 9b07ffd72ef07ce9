std = "luajit"
max_line_length = 140
exclude_files = { "build" }
globals = { "tarn" } -- inside tarn, the module is a global too
files["spec"] = { std = "luajit+busted" }
files["lua/tarn/meta"] = { ignore = { "211", "212", "241" }, max_line_length = false } -- stubs for editors
