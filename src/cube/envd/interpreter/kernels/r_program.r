# The program that R runs for an R context, under r_host.py. A request is a line: the file with the code, the variables
# of the cell as a list in R, and its number, with tabs between. Answers are lines of JSON.
local({
  arguments <- commandArgs(trailingOnly = TRUE)
  requests <- file(paste0("/dev/fd/", arguments[1]), open = "r", raw = TRUE, blocking = TRUE)
  answers <- file(paste0("/dev/fd/", arguments[2]), open = "w", raw = TRUE, blocking = TRUE)
  pictures <- file.path(arguments[3], "plot%03d.png")
  options(warn = 1, device = function(...) grDevices::png(filename = pictures, width = 960, height = 720, res = 120))

  quoted <- function(text) {
    text <- iconv(enc2utf8(paste(text, collapse = "\n")), "UTF-8", "UTF-8", sub = "?")
    text <- gsub("\\", "\\\\", text, fixed = TRUE)
    text <- gsub("\"", "\\\"", text, fixed = TRUE)
    text <- gsub("\n", "\\n", text, fixed = TRUE)
    text <- gsub("\r", "\\r", text, fixed = TRUE)
    text <- gsub("\t", "\\t", text, fixed = TRUE)
    paste0("\"", gsub("[[:cntrl:]]", "?", text), "\"")
  }

  answer <- function(...) {
    fields <- c(...)
    writeLines(paste0("{", paste0("\"", names(fields), "\":", fields, collapse = ","), "}"), answers)
    flush(answers)
  }

  column <- function(values) {
    if (is.numeric(values)) {
      shown <- ifelse(is.finite(values), format(values, digits = 15, trim = TRUE, scientific = FALSE), "null")
    } else if (is.logical(values)) {
      shown <- ifelse(is.na(values), "null", ifelse(values, "true", "false"))
    } else {
      shown <- ifelse(is.na(values), "null", vapply(as.character(values), quoted, ""))
    }
    paste0("[", paste(shown, collapse = ","), "]")
  }

  html <- function(table) {
    clean <- function(text) gsub("<", "&lt;", gsub("&", "&amp;", text, fixed = TRUE), fixed = TRUE)
    row <- function(cells, tag) paste0("<tr>", paste0("<", tag, ">", clean(cells), "</", tag, ">", collapse = ""), "</tr>")
    lines <- if (nrow(table)) apply(as.matrix(format(table)), 1, row, tag = "td")
    paste0("<table>", row(names(table), "th"), paste(lines, collapse = ""), "</table>")
  }

  representations <- function(value) {
    data <- c("text/plain" = quoted(utils::capture.output(print(value))))
    if (is.data.frame(value) && ncol(value)) {
      columns <- paste0(vapply(names(value), quoted, ""), ":", vapply(value, column, ""), collapse = ",")
      data <- c(data, "e2b/data" = paste0("{", columns, "}"), "text/html" = quoted(html(utils::head(value, 100))))
    }
    paste0("{", paste0("\"", names(data), "\":", data, collapse = ","), "}")
  }

  # A plot object draws when it is printed; then the picture is what there is to see.
  show <- function(value, main) {
    if (inherits(value, c("ggplot", "trellis", "recordedplot"))) print(value)
    else answer(type = "\"result\"", main = if (main) "true" else "false", data = representations(value))
  }

  draw <- function() {
    while (grDevices::dev.cur() > 1) grDevices::dev.off()
    for (path in sort(list.files(arguments[3], pattern = "^plot.*png$", full.names = TRUE))) {
      answer(type = "\"picture\"", path = quoted(path))
      for (turn in 1:500) if (file.exists(path)) Sys.sleep(0.002)
    }
  }

  fail <- function(name, value, traceback) {
    answer(type = "\"error\"", name = quoted(name), value = quoted(value), traceback = quoted(traceback))
  }

  run <- function(path) {
    cell <- tryCatch(parse(path, keep.source = FALSE, encoding = "UTF-8"), error = function(e) {
      fail("ParseError", conditionMessage(e), conditionMessage(e))
      NULL
    })
    for (number in seq_along(cell)) {
      outcome <- withVisible(eval(cell[[number]], globalenv()))
      if (outcome$visible) show(outcome$value, number == length(cell))
    }
  }

  guarded <- function(path) {
    calls <- NULL
    tryCatch(
      withCallingHandlers(run(path), error = function(e) calls <<- sys.calls()),
      error = function(e) {
        own <- utils::head(utils::tail(calls, -14), -2)
        trace <- vapply(own, function(call) deparse(call)[1], "")
        fail(class(e)[1], conditionMessage(e), c(paste0("Error: ", conditionMessage(e)), trace))
      },
      interrupt = function(e) fail("KeyboardInterrupt", "The cell was interrupted", "KeyboardInterrupt")
    )
  }

  repeat {
    line <- readLines(requests, n = 1)
    if (!length(line)) quit(save = "no")
    fields <- strsplit(line, "\t", fixed = TRUE)[[1]]
    # Whatever a cell has written to this pipe is no request.
    if (length(fields) != 3 || !file.exists(fields[1])) next
    variables <- eval(parse(text = fields[2]))
    former <- Sys.getenv(names(variables), unset = NA, names = TRUE)
    if (length(variables)) do.call(Sys.setenv, variables)
    guarded(fields[1])
    tryCatch(draw(), error = function(e) message(conditionMessage(e)), interrupt = function(e) NULL)
    if (fields[3] != "0") {
      kept <- former[!is.na(former)]
      Sys.unsetenv(names(former)[is.na(former)])
      if (length(kept)) do.call(Sys.setenv, as.list(kept))
    }
    flush(stdout())
    answer(type = "\"done\"", id = fields[3])
  }
})
