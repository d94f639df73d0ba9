"""The operator's window: what the robot does and why, and the acts hold, resume, takeover and instruction.

    freshness, model, sentences, rules   what is known and what may be done: no Qt, no ROS, time comes in as an argument
    station, acts, picture_feed          the ROS side: writes into the model, calls the services
    binding, style, header, controls, plots, cameras, widget      the Qt side: draws the model
    main, rqt_plugin                     the window alone, and inside rqt

The robot never depends on it: it only listens, and calls services that anybody may call.
"""
