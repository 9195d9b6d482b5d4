# Samples of the same noise and conditioning: exact, calibrated, reuse and the differences, and below them each sample's
# relative error. Reads samples.tsv and the image samples.grid.png beside it.
if (!exists("ousac_common")) load "plots/common.gp"
file = tables."samples.tsv"
image = tables."samples.grid.png"

rows = 0; first = 1e300; last = 0; low = 1e300; high = 0.0
stats file using (rows = rows + 1, first = min2(first, column("sample")), last = max2(last, column("sample")), \
                  add(strcol("run"))) nooutput
stats file using (column("relative_error") > 0 ? (low = min2(low, column("relative_error")), \
                  high = max2(high, column("relative_error"))) : 0) nooutput
runs = words(words_seen)
pictures = !text && strlen(grid) > 0
eval start(860, pictures ? 760 : 320, 24)
if (rows == 0 && !pictures) {
    set xlabel "sample (index of noise and conditioning)"; set ylabel "relative error (no unit)"
    eval say_nothing
} else {
    set multiplot
    if (pictures) {
        set lmargin at screen 0.2; set rmargin at screen 0.99
        set tmargin at screen 0.995; set bmargin at screen 0.42
        unset border; unset tics; unset key; unset grid
        set size ratio -1
        set autoscale xfix; set autoscale yfix
        lines = 1
        do for [i = 1:strlen(grid)] { if (grid[i:i] eq "|") { lines = lines + 1 } }
        rest = grid
        do for [i = 1:lines] {
            cut = strstrt(rest, "|")
            set label i "".(cut > 0 ? rest[1:cut - 1] : rest) at graph 0, graph 1 - (i - 0.5) / lines right offset -0.8, 0
            rest = rest[cut + 1:*]
        }
        plot image binary filetype=png with rgbimage notitle
        do for [i = 1:lines] { unset label i }
        set size noratio
        set autoscale
        set border 3 lc rgb black lw 1
        set xtics nomirror out scale 0.6
        set ytics nomirror out scale 0.6
        set grid ytics lc rgb "#808080" lw 0.4 dt (2, 4)
        set key
    }
    set key at graph 1, graph 1.02 right bottom horizontal
    set lmargin at screen 0.11; set rmargin at screen 0.97
    set tmargin at screen (pictures ? 0.35 : 0.88); set bmargin at screen (pictures ? 0.1 : 0.18)
    set xlabel "sample (index of noise and conditioning)"
    set ylabel "relative error (no unit)"
    if (high <= 0) {
        why = rows > 0 ? "every error is zero" : why
        eval say_nothing
    } else {
        set logscale y
        set format y "%g"
        set xrange [first - 0.5:last + 0.5]
        set yrange [low / 1.6:high * 1.6]
        eval log_tics(low, high)
        set xtics first, tic_step(last - first + 1, 16)
        command = ""
        do for [r = 1:runs] {
            run = word(words_seen, r)
            positive = 0
            stats file using (strcol("run") eq run && column("relative_error") > 0 ? (positive = positive + 1) : 0) nooutput
            if (positive > 0) { command = command.(strlen(command) ? ", " : "plot ").sprintf(\
                "file using 'sample':(strcol('run') eq '%s' && column('relative_error') > 0 ? column('relative_error') : NaN) with points %s title '%s against exact'", \
                run, text ? sprintf("pt '%s'", substr(run, 1, 1)) : \
                sprintf("pt %d ps 1.1 lc rgb %d", run eq "calibrated" ? 7 : 6, run eq "calibrated" ? blue : vermillion), run) }
        }
        eval command
    }
    unset multiplot
}
