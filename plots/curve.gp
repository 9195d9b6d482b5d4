# Error of the final sample from the reference's own against cost: fewer steps, fitted fewer steps, and what was calibrated.
# Open marks are of validation samples, filled ones, with 95 % intervals, of test samples. A panel for each reference and kind
# of cost. Reads curve.tsv.
if (!exists("ousac_common")) load "plots/common.gp"
file = tables."curve.tsv"

rows = 0; panels = 0; lines = 0; low = 1e300; high = 0.0
stats file using (rows = rows + 1, panels = max2(panels, column("panel") + 1), lines = max2(lines, column("series") + 1), \
                  low = min2(low, max2(column("low"), column("error") / 10)), high = max2(high, column("high"))) nooutput
down = max2(1, int(panels))
eval start(1120, rows > 0 ? 60 + (panels > 1 ? 360 : 420) * down : 300, rows > 0 ? 28 * down : 20)
set xlabel "MACs of the trajectory (% of the reference's)"
set ylabel "relative error from the reference (no unit)"
if (rows == 0) {
    eval say_nothing
} else {
    set logscale y
    set format y "%g"
    set yrange [low / 1.5:high * 1.5]
    set grid xtics ytics lc rgb "#808080" lw 0.4 dt (2, 4)
    if (text) { set key below center horizontal maxcols 2 } else { set key outside right top vertical }
    set datafile missing NaN # lines go on over the rows of other series
    eval log_tics(low, high)
    set multiplot layout down, 1
    do for [p = 0:panels - 1] {
        title = ""; axis = ""; left = 1e300; right = 0.0
        stats file using (column("panel") == p ? (title = strcol("panel_label"), axis = strcol("axis"), \
                          left = min2(left, column("cost")), right = max2(right, column("cost"))) : 0) nooutput
        set title title
        set xlabel axis eq "MACs" ? "MACs of the trajectory (% of the reference's)" : "time of the trajectory (% of the reference's)"
        set xrange [max2(0, 100 * (left - 0.1 * max2(right - left, 0.05))):100 * (right + 0.1 * max2(right - left, 0.05))]
        command = ""; baseline = 0
        do for [s = 0:lines - 1] {
            n = 0; kind = ""; samples = ""; series = ""; spread = 0
            stats file using (column("panel") == p && column("series") == s ? (n = n + 1, kind = strcol("kind"), \
                samples = strcol("samples"), series = strcol("label"), \
                spread = spread + (column("high") > 1.001 * column("low"))) : 0) nooutput
            if (n > 0) {
                tested = samples eq "test"
                tint = kind eq "ours" ? blue : kind eq "fitted" ? vermillion : kind eq "fewer" ? grey : colour_of(baseline + 1)
                shape = kind eq "ours" ? (tested ? 7 : 6) : kind eq "fitted" ? (tested ? 9 : 8) : kind eq "fewer" ? (tested ? 5 : 4) \
                        : word("13 11 3 2 1 12 10", 1 + baseline % 7) + 0
                letter = kind eq "ours" ? (tested ? "O" : "o") : kind eq "fitted" ? (tested ? "F" : "f") : \
                         kind eq "fewer" ? (tested ? "S" : "s") : sprintf("%d", (baseline + 1) % 10)
                baseline = baseline + (kind eq "baseline")
                mark = text ? sprintf("pt '%s'", letter) : sprintf("pt %d ps %g lc rgb %d", shape, tested ? 1.3 : 1, tint)
                pick = sprintf("(column('panel') == %d && column('series') == %d ? 100 * column('cost') : NaN)", p, s)
                style = text || n < 2 ? "points" : "linespoints"
                command = command.(strlen(command) ? ", " : "plot ")
                if (!text && spread > 0) { command = command.sprintf(\
                    "file using %s:(column('low')):(0):(column('high') - column('low')) with vectors nohead lw 1.6 lc rgb %d notitle, ", pick, tint) }
                command = command.sprintf("file using %s:(column('error')) with %s %s %s title '%s'", pick, style, mark, \
                                          style eq "points" ? "" : tested ? "lw 2.2" : "lw 1.2 dt 2", series)
            }
        }
        if (strlen(command)) { eval command } else { eval say_nothing }
    }
    unset multiplot
}
