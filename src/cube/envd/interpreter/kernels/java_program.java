// The program that java runs for a Java context, under java_host.py. A request is a line: the number of the
// cell, then base64 texts, the code and its variables. Answers are lines of JSON.
//
// JShell works in this very process, so what cells print goes where this program's own output goes.
import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;
import jdk.jshell.EvalException;
import jdk.jshell.JShell;
import jdk.jshell.JShellException;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import jdk.jshell.SourceCodeAnalysis;

public class CubeKernel {
    private static final String[] IMPORTS = {
        "java.io.*", "java.math.*", "java.net.*", "java.nio.file.*", "java.util.*", "java.util.concurrent.*",
        "java.util.function.*", "java.util.regex.*", "java.util.stream.*",
    };

    private final OutputStream answers;
    private final JShell shell = JShell.builder().executionEngine("local").build();
    private volatile boolean running;
    private volatile boolean interrupted;

    CubeKernel(OutputStream answers) {
        this.answers = answers;
        for (String name : IMPORTS) shell.eval("import " + name + ";");
        sun.misc.Signal.handle(new sun.misc.Signal("INT"), signal -> interrupt());
    }

    public static void main(String[] arguments) throws Exception {
        System.setOut(new PrintStream(new FileOutputStream(java.io.FileDescriptor.out), true, StandardCharsets.UTF_8));
        System.setErr(new PrintStream(new FileOutputStream(java.io.FileDescriptor.err), true, StandardCharsets.UTF_8));
        var kernel = new CubeKernel(new FileOutputStream("/dev/fd/" + arguments[1]));
        var input = new InputStreamReader(new FileInputStream("/dev/fd/" + arguments[0]), StandardCharsets.US_ASCII);
        var requests = new BufferedReader(input);
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            // Whatever a cell has written to this pipe is no request.
            if (line.matches("\\d+ [A-Za-z0-9+/=]*( [A-Za-z0-9+/=]*)*")) kernel.serve(line.split(" ", -1));
        }
        System.exit(0);
    }

    private void interrupt() {
        if (!running) return;
        interrupted = true;
        shell.stop();
    }

    private void serve(String[] fields) throws IOException {
        Map<String, String> former = new HashMap<>();
        for (int i = 2; i < fields.length; i++) {
            String[] pair = text(fields[i]).split("=", 2);
            former.put(pair[0], System.getenv(pair[0]));
            setVariable(pair[0], pair[1]);
        }
        interrupted = false;
        running = true;
        try {
            run(text(fields[1]));
        } finally {
            running = false;
        }
        if (!fields[0].equals("0")) former.forEach(CubeKernel::setVariable);
        System.out.flush();
        answer("{\"type\":\"done\",\"id\":" + fields[0] + "}");
    }

    private static String text(String field) {
        return new String(Base64.getDecoder().decode(field), StandardCharsets.UTF_8);
    }

    // Runs the snippets of a cell up to the first that fails; the value of the last one is the cell's.
    private void run(String code) throws IOException {
        String rest = code;
        String value = null;
        while (!rest.isBlank()) {
            SourceCodeAnalysis.CompletionInfo info = shell.sourceCodeAnalysis().analyzeCompletion(rest);
            if (info.completeness() == SourceCodeAnalysis.Completeness.EMPTY) break;
            boolean whole = info.completeness().isComplete();
            if (info.completeness() == SourceCodeAnalysis.Completeness.DEFINITELY_INCOMPLETE) {
                fail("SyntaxError", "the code ends too early", rest);
                return;
            }
            String source = whole && info.source() != null ? info.source() : rest;
            rest = whole && info.remaining() != null ? info.remaining() : "";
            value = null;
            for (SnippetEvent event : shell.eval(source)) {
                if (event.causeSnippet() != null) continue;
                if (failed(event)) return;
                if (hasValue(event.snippet())) value = event.value();
            }
        }
        if (value != null) answer("{\"type\":\"result\",\"main\":true,\"data\":{\"text/plain\":" + quoted(value) + "}}");
    }

    private static boolean hasValue(Snippet snippet) {
        return snippet.kind() == Snippet.Kind.EXPRESSION
            || snippet.subKind() == Snippet.SubKind.TEMP_VAR_EXPRESSION_SUBKIND;
    }

    private boolean failed(SnippetEvent event) throws IOException {
        if (interrupted) {
            fail("KeyboardInterrupt", "The cell was interrupted", "KeyboardInterrupt");
        } else if (event.status() == Snippet.Status.REJECTED) {
            String reasons = shell.diagnostics(event.snippet()).map(each -> each.getMessage(Locale.ENGLISH))
                .collect(Collectors.joining("\n"));
            fail("CompilationError", reasons, reasons + "\n" + event.snippet().source());
        } else if (event.exception() != null) {
            report(event.exception());
        } else {
            return false;
        }
        return true;
    }

    private void report(JShellException error) throws IOException {
        String name = error instanceof EvalException raised ? raised.getExceptionClassName() : error.getClass().getName();
        String message = String.valueOf(error.getMessage());
        var trace = new StringBuilder(name + ": " + message);
        for (StackTraceElement element : error.getStackTrace()) trace.append("\n\tat ").append(element);
        fail(name.substring(name.lastIndexOf('.') + 1), message, trace.toString());
    }

    private void fail(String name, String value, String traceback) throws IOException {
        answer("{\"type\":\"error\",\"name\":" + quoted(name) + ",\"value\":" + quoted(value)
            + ",\"traceback\":" + quoted(traceback) + "}");
    }

    private void answer(String json) throws IOException {
        answers.write((json + "\n").getBytes(StandardCharsets.UTF_8));
        answers.flush();
    }

    private static String quoted(String text) {
        var out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') out.append('\\').append(c);
            else if (c < ' ' || Character.isSurrogate(c)) out.append(String.format("\\u%04x", (int) c));
            else out.append(c);
        }
        return out.append('"').toString();
    }

    // The map that System.getenv looks into is private to it; a null value removes.
    @SuppressWarnings("unchecked")
    private static void setVariable(String name, String value) {
        try {
            var field = System.getenv().getClass().getDeclaredField("m");
            field.setAccessible(true);
            var variables = (Map<String, String>) field.get(System.getenv());
            if (value == null) variables.remove(name);
            else variables.put(name, value);
        } catch (ReflectiveOperationException error) {
            System.err.println("The variable " + name + " cannot be set: " + error);
        }
    }
}
